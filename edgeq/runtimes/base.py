"""`Session`: the smallest interface that an engine has to offer."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, ClassVar, NamedTuple

import numpy as np

from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.machine import read_machine
from edgeq.results.measurement import LayerProfile

Arrays = dict[str, np.ndarray]

LATENCY, THROUGHPUT = "latency", "throughput"


class DeviceTimes(NamedTuple):
    """Times of one run on a device beside the CPU, in milliseconds.

    Attributes:
        compute_ms: The device's own time for the network, without copies, by its clock.
        enqueue_ms: The CPU's time to hand the work over; where it comes near `compute_ms`, the CPU sets the pace.
    """

    compute_ms: float
    enqueue_ms: float


class Session(ABC):
    """An open model file. A context manager; `run` checks, `_run` works. One thread at a time may call `run`.

    Attributes:
        runtime: Name of the engine, as in `RUNTIMES`.
        package: Name of the engine's import package.
        extra: The extra of edgeq that brings it; `None` if the base install does.
        formats: File formats that it reads.
        hints: What it can be tuned for: the `latency` of one request at a time, or the `throughput` of several.
        artifact: What was opened.
        threads: CPU threads asked for; `None` leaves it to the engine.
        hint: What it is tuned for.
        device_times: Of the last run; `None` for engines on the CPU.
    """

    runtime: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str | None]
    formats: ClassVar[tuple[str, ...]] = ("onnx",)
    hints: ClassVar[tuple[str, ...]] = (LATENCY,)
    device_times: DeviceTimes | None = None

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        compute_precision: str | None = None,
        hint: str = LATENCY,
    ) -> None:
        """Opens the file.

        Args:
            artifact: The model file with its manifest.
            threads: CPU threads the engine may use; `None` leaves it to the engine.
            compute_precision: What float layers are computed in (`f32`, `bf16`, `f16`); `None` is f32 for an `fp32`
                file, whatever the engine would prefer, and the engine's choice for every other.
            hint: What to tune it for, one of `hints`.

        Raises:
            InputError: the engine does not know that precision, or cannot be tuned so.
            MissingDependencyError: the engine is not installed.
            EngineError: the engine refuses the file.
        """
        self.artifact = artifact
        self.threads = threads
        self.hint = hint
        if hint not in self.hints:
            raise InputError(f"`hint` {hint}: {self.runtime} can be tuned for {' or '.join(self.hints)} only")
        self._open(compute_precision)

    @classmethod
    def is_installed(cls) -> bool:
        """Returns whether the engine can be found, without importing it."""
        return importlib.util.find_spec(cls.package) is not None

    @classmethod
    def import_engine(cls) -> Any:
        """Returns the engine's package.

        Raises:
            MissingDependencyError: it is not installed.
            EngineError: it is installed and cannot be imported, for want of a system library for example.
        """
        try:
            return importlib.import_module(cls.package)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == cls.package:
                raise MissingDependencyError(cls.package, cls.extra, f"The runtime {cls.runtime}") from error
            raise EngineError(
                f"{cls.package} is installed but cannot be imported ({first_line(error)}); install it again"
            ) from error

    @abstractmethod
    def _open(self, compute_precision: str | None) -> None:
        """Loads `self.artifact` into the engine."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns output name -> array for one set of inputs, in the manifest's order; the arrays are the caller's.

        Args:
            inputs: Input name -> array of the dtype and shape that the manifest states.

        Raises:
            InputError: a name, dtype or shape is not what the manifest states.
            EngineError: the engine failed.
        """
        expected = {spec.name: spec for spec in self.artifact.inputs}
        if inputs.keys() != expected.keys():
            raise InputError(f"{self.artifact.name}: got inputs {sorted(inputs)}, wanted {sorted(expected)}")
        for name, array in inputs.items():
            _check(self.artifact.name, array, expected[name])
        return self._run(inputs)

    @abstractmethod
    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs checked inputs through the engine."""

    def time_layers(self, inputs: Mapping[str, np.ndarray], runs: int) -> LayerProfile | None:
        """Returns what each layer takes by the engine's own profiler; `None` if its Python API has none.

        Args:
            inputs: Inputs as `run` takes them.
            runs: How many runs to profile.

        Raises:
            EngineError: the engine failed.
        """
        return None

    def environment(self) -> dict[str, Any]:
        """Returns what decides speed and results, as JSON values.

        `engine` is name and version, `threads` and `compute_precision` what the engine really uses (`threads` is null
        where it does not tell); the rest are the facts of `edgeq.machine.Machine`.
        """
        machine = read_machine()
        return {
            **self._engine_environment(),
            "cpu": machine.cpu,
            "cpu_features": list(machine.cpu_features),
            "usable_cpus": machine.usable_cpus,
            "architecture": machine.architecture,
            "system": machine.system,
            "board": machine.board,
            "python": machine.python,
            "emulated": machine.emulated,
        }

    @abstractmethod
    def _engine_environment(self) -> dict[str, Any]:
        """Returns `engine`, `threads`, `compute_precision` and whatever else decides this engine's speed."""

    @abstractmethod
    def close(self) -> None:
        """Frees what the engine holds; the session cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _require_tensors(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Raises `EngineError` unless the engine's file has the tensors that the manifest states."""
        for kind, stated, found in (
            ("input", self.artifact.inputs, inputs),
            ("output", self.artifact.outputs, outputs),
        ):
            names = set(found)
            for spec in stated:
                if spec.name not in names:
                    raise EngineError(
                        f"{self.artifact.path}: {self.runtime} finds no {kind} {spec.name!r} in it, only "
                        f"{sorted(names)}; its manifest belongs to another file, export it again"
                    )

    def _refused(self, error: Exception) -> EngineError:
        """Returns the error of a file that the engine cannot load."""
        return EngineError(
            f"{self.artifact.path}: {self.runtime} cannot load it ({first_line(error)}); export it again, or choose "
            "another runtime"
        )

    def _failed(self, error: Exception) -> EngineError:
        """Returns the error of a run that the engine broke off."""
        return EngineError(
            f"{self.artifact.path}: {self.runtime} failed while running it ({first_line(error)}); try another runtime"
        )


def _check(artifact: str, array: np.ndarray, spec: TensorSpec) -> None:
    if str(array.dtype) != spec.dtype:
        raise InputError(f"{artifact}: input {spec.name!r} is {array.dtype}, wanted {spec.dtype}")
    fits = len(array.shape) == len(spec.shape) and all(
        want is None or got == want for got, want in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{artifact}: input {spec.name!r} has shape {array.shape}, wanted {spec.shape}")


def first_line(error: Exception) -> str:
    """Returns the first line of an engine's message that says something: OpenVINO begins with source positions."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return (telling or lines or [type(error).__name__])[0]
