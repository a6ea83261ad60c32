"""`python -m edgeq.runtimes.tensorrt.compile_worker`: compiles ONNX files with TensorRT for RTX, driven by JSON lines.

A process of its own, because the library may crash, hang or take all memory; one for many files, because its start
takes longer than a small file. It needs no GPU and no driver. See `edgeq.runtimes.commands` for the lines:

    {"command": "compile", "file": "net.onnx", "sm": "SM86", "memory_bytes": 8000000000}
        -> version; stage: `built`, who refused it (`parser`, `builder`), or `memory` if there was too little; node and
        reason of a refusal; parse_s, build_s; and of an engine plan_bytes, weights_bytes, activation_bytes and kernels,
        see `edgeq.runtimes.tensorrt.compiled_log`
    {"command": "quit"}
        ends the process
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.machine import peak_rss_bytes
from edgeq.runtimes.commands import answer_by, field, serve
from edgeq.runtimes.tensorrt.compiled_log import read_log
from edgeq.runtimes.tensorrt.gpus import parse_gpus, set_gpus
from edgeq.runtimes.tensorrt.library import TENSORRT_RTX, Messages, is_about_memory, is_all_memory, make_logger

_SHORT = 300
_PLACES = re.compile(r"\s*\[?checkMacros\.cpp.*|\s*In \w+ at \S+\.cpp:\d+\)?")


class _Worker:
    def __init__(self) -> None:
        self.quitting = False

    def answer(self, line: bytes) -> dict[str, Any]:
        return answer_by({"compile": self._compile, "quit": self._quit}, line)

    def _quit(self, command: Mapping[str, Any]) -> dict[str, Any]:
        del command
        self.quitting = True
        return {}

    def _compile(self, command: Mapping[str, Any]) -> dict[str, Any]:
        path = Path(field(command, "file", str))
        limit = field(command, "memory_bytes", int, type(None))
        trt = TENSORRT_RTX.load()
        out_of_memory = {"version": str(trt.__version__), "stage": "memory"}
        # Below what the library itself takes any allocation may fail, those of this answer too.
        if is_all_memory(peak_rss_bytes(), limit):
            return out_of_memory
        _limit_memory(limit)
        try:
            found = _Compilation(trt, path, field(command, "sm", str)).run()
        except MemoryError:
            return out_of_memory
        # What the library says where an allocation fails often names what it was for, and not memory.
        return out_of_memory if found["stage"] != "built" and is_all_memory(peak_rss_bytes(), limit) else found


class _Compilation:
    """One file; the objects that the library wants alive until its engine is built."""

    def __init__(self, trt: Any, path: Path, sm: str) -> None:
        self._trt, self._path, self._gpus = trt, path, parse_gpus(trt, [sm])
        self._messages = Messages()
        self._log: list[str] = []
        self._logger = make_logger(trt, self._messages, self._log)

    def run(self) -> dict[str, Any]:
        trt = self._trt
        builder = trt.Builder(self._logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        begun = time.perf_counter()
        is_parsed = parser.parse(model=self._path.read_bytes(), path=str(self._path.absolute()))
        times = {"version": str(trt.__version__), "parse_s": time.perf_counter() - begun}
        if not is_parsed:
            return {**times, "stage": "parser", **_refusal(parser, self._messages)}
        begun = time.perf_counter()
        plan = builder.build_serialized_network(network=network, config=self._config(builder, network))
        times["build_s"] = time.perf_counter() - begun
        if plan is None:
            if self._messages.lacks_memory:
                return {**times, "stage": "memory"}
            # What follows the first error are consequences, and a missing driver.
            errors = self._messages.errors or ["the library gave no reason"]
            return {**times, "stage": "builder", "reason": _short(errors[0])}
        log = read_log(self._log, str(trt.__version__))
        return {**times, "stage": "built", "plan_bytes": plan.nbytes, **dataclasses.asdict(log)}

    def _config(self, builder: Any, network: Any) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # without it the log lists no kernels
        config.clear_flag(trt.BuilderFlag.TF32)
        set_gpus(trt, config, self._gpus, self._messages)
        free = [tensor for tensor in _inputs(network) if any(size < 0 for size in tensor.shape)]
        if free:
            profile = builder.create_optimization_profile()
            for tensor in free:
                profile.set_shape(input=tensor.name, **dict.fromkeys(("min", "opt", "max"), self._one_image(tensor)))
            config.add_optimization_profile(profile)
        return config

    def _one_image(self, tensor: Any) -> tuple[int, ...]:
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            raise InputError(
                f"{self._path}: its input {tensor.name!r} has the shape {shape} with free lengths (-1), and TensorRT "
                "compiles for a size; export it with `size`"
            )
        return 1, *shape[1:]


def _inputs(network: Any) -> list[Any]:
    return [network.get_input(index) for index in range(network.num_inputs)]


def _refusal(parser: Any, messages: Messages) -> dict[str, str]:
    if not parser.num_errors:
        return {"node": "", "reason": _short(messages.said())}
    error = parser.get_error(0)
    node, operator = str(error.node_name()), str(error.node_operator())
    said = _short(str(error.desc()))
    if is_about_memory(said):
        return {"stage": "memory"}
    # Of an operator that it has not, the parser says nothing but the condition that failed.
    reason = f"{operator}: {said}" if operator else said
    return {"node": node, "reason": reason}


def _short(text: str) -> str:
    """Returns an error in a line, without places in the library's source and what it says of a missing driver."""
    line = _PLACES.sub("", " ".join(text.split()))
    return line if len(line) <= _SHORT else line[: _SHORT - 3] + "..."


def _limit_memory(limit: int | None) -> None:
    if limit is None:
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        # Not the address space: a GPU's driver reserves more of it than there is memory.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main() -> None:
    """Answers the commands on stdin until it ends."""
    worker = _Worker()
    serve(worker.answer, lambda: worker.quitting)


if __name__ == "__main__":
    main()
