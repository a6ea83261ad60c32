"""`Session`: the smallest interface that an engine has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from edgeq.errors import InputError
from edgeq.export.artifact import Artifact, TensorSpec

Arrays = dict[str, np.ndarray]


class Session(ABC):
    """An open model file. A context manager; `run` checks, `_run` works.

    Attributes:
        artifact: What was opened.
        runtime: Name of the engine, as in `RUNTIMES`.
    """

    runtime: str

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        self.artifact = artifact
        self.threads = threads

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns output name -> array for one set of inputs.

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

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Returns what decides speed and results: engine version, threads, compute precision, instruction set."""

    def close(self) -> None:
        """Frees what the engine holds; the session cannot run afterwards."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()


def _check(artifact: str, array: np.ndarray, spec: TensorSpec) -> None:
    if str(array.dtype) != spec.dtype:
        raise InputError(f"{artifact}: input {spec.name!r} is {array.dtype}, wanted {spec.dtype}")
    fits = len(array.shape) == len(spec.shape) and all(
        want is None or got == want for got, want in zip(array.shape, spec.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{artifact}: input {spec.name!r} has shape {array.shape}, wanted {spec.shape}")
