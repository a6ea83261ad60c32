"""Compiles ONNX files with TensorRT for RTX, in a process of its own, without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from edgeq.errors import MissingDependencyError
from edgeq.machine import read_machine
from edgeq.runtimes.child import EndedProcessError, LateAnswerError, RunnerProcess
from edgeq.runtimes.tensorrt.compiled_log import Kernel
from edgeq.runtimes.tensorrt.gpus import gpu_of
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX, is_about_memory, is_all_memory

DEFAULT_SM = "SM86"
"""The nearest to Orin's compute capability of 8.7 that TensorRT for RTX compiles for."""

TIME_LIMIT_S = 600.0
"""How long a file may take; the largest of the zoo take 18 s."""

_COMMAND = (sys.executable, "-m", "edgeq.runtimes.tensorrt.compile_worker")


@dataclass(frozen=True)
class Compiled:
    """What TensorRT for RTX made of a file, or why it made nothing.

    Attributes:
        stage: `built`; who refused the file (`parser`, `builder`); what there was too little of (`memory`, `time`); or
            `died`, the library itself.
        version: Version of the library; empty if it died.
        node: Node that the parser refused; empty if it named none.
        reason: Why there is no engine.
        parse_s: Seconds that the parser took.
        build_s: Seconds that the builder took.
        plan_bytes: Size of the serialized engine.
        weights_bytes: Memory of its weights.
        activation_bytes: Memory of its activations.
        kernels: Its kernels, in the order they run.
    """

    stage: Literal["built", "parser", "builder", "memory", "time", "died"]
    version: str = ""
    node: str = ""
    reason: str = ""
    parse_s: float = 0.0
    build_s: float = 0.0
    plan_bytes: int = 0
    weights_bytes: int = 0
    activation_bytes: int = 0
    kernels: tuple[Kernel, ...] = ()


class Compiler:
    """TensorRT for RTX in a child process, which is started again after a crash. A context manager.

    Args:
        sm: Compute capability to compile for: `sm86`, `86` or `8.6`.
        time_limit_s: How long a file may take.
        memory_bytes: How much memory the child may take; by default as much as is installed.

    Raises:
        MissingDependencyError: the library is not installed.
    """

    def __init__(
        self, sm: str = DEFAULT_SM, time_limit_s: float = TIME_LIMIT_S, memory_bytes: int | None = None
    ) -> None:
        self._sm = sm
        require_library()
        self._time_limit_s = time_limit_s
        self._memory_bytes = memory_bytes or read_machine().memory_bytes
        self._process: RunnerProcess | None = None

    @property
    def sm(self) -> str:
        """What it compiles for, as `SM86`."""
        return gpu_of(self._sm)

    def compile(self, path: Path) -> Compiled:
        """Returns what becomes of a file; a refusal and a crash of the library are results too.

        Raises:
            InputError: the library does not compile for this capability.
            EngineError: it cannot be imported, or its log cannot be read.
        """
        if self._process is None:
            self._process = RunnerProcess(TENSORRT_RTX.title, _COMMAND)
        limit = self._time_limit_s
        try:
            found = self._process.ask_for(
                Compiled, limit, "compile", file=str(path.absolute()), sm=self._sm, memory_bytes=self._memory_bytes
            )
        except LateAnswerError as error:
            self._end()
            if is_all_memory(error.peak_bytes, self._memory_bytes):  # its threads wait for one that could not start
                return self._out_of_memory()
            return Compiled("time", reason=f"not done in {limit:g} s, the limit; compile it on a faster machine")
        except EndedProcessError as error:
            self._end()
            # The kernel ends what takes the last memory by SIGKILL; code that does not look whether it was given memory
            # ends in any way.
            said = str(error)
            if is_about_memory(said) or "signal 9" in said or is_all_memory(error.peak_bytes, self._memory_bytes):
                return self._out_of_memory()
            said = f"it crashed ({error}); compile with another version of it, and report the file to NVIDIA"
            return Compiled("died", reason=said)
        if found.stage == "memory":
            self._end()  # what it holds is of no use to the next file
            return self._out_of_memory()
        return found

    def _out_of_memory(self) -> Compiled:
        limit = "" if self._memory_bytes is None else f" of {self._memory_bytes / 1e9:.1f} GB"
        return Compiled(
            "memory", reason=f"out of memory{limit}; close other programs, or compile it on a larger machine"
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> Compiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()


def require_library() -> None:
    """Checks that TensorRT for RTX is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    if importlib.util.find_spec(TENSORRT_RTX.module) is None:
        raise MissingDependencyError("tensorrt-rtx-cu12", "rtx", "compiling for TensorRT (`compile`)")
