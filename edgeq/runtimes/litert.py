"""LiteRT (TensorFlow Lite) on the CPU, from ai-edge-litert or the older tflite-runtime or TensorFlow."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from edgeq.errors import EngineError, InputError, MismatchError, MissingDependencyError
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes.base import Arrays, Session, first_line


class _Package(NamedTuple):
    """One of the packages that bring the interpreter."""

    name: str
    module: str
    distribution: str


# The first one that is installed is used.
_PACKAGES = (
    _Package("ai_edge_litert", "ai_edge_litert.interpreter", "ai-edge-litert"),
    _Package("tflite_runtime", "tflite_runtime.interpreter", "tflite-runtime"),
    _Package("tensorflow", "tensorflow.lite", "tensorflow"),
)


_WAY_OUT = (
    "export it with `compat` tflite-runtime, or run it with ai-edge-litert (pip install 'edgeq[litert]'); "
    "tflite-runtime itself needs numpy<2"
)


class LiteRtSession(Session):
    """A TFLite file in the LiteRT interpreter, with XNNPACK as its default delegate.

    Arrays go in and come out as the file holds them, which for files of edgeq is channel-last; `TensorSpec.encode` and
    `TensorSpec.decode` translate.
    """

    runtime = "litert"
    package = "ai_edge_litert"
    extra = "litert"
    formats = ("tflite",)

    @classmethod
    def is_installed(cls) -> bool:
        """Returns whether one of the packages can be found, without importing it."""
        return _find_package() is not None

    @classmethod
    def import_engine(cls) -> Any:
        """Returns the module that holds `Interpreter`."""
        package = _find_package()
        if package is None:
            raise MissingDependencyError(cls.package, cls.extra, f"The runtime {cls.runtime}")
        try:
            return importlib.import_module(package.module)
        except ImportError as error:
            raise EngineError(
                f"{package.distribution} is installed but cannot be imported ({first_line(error)}); install it again"
            ) from error

    def _open(self, compute_precision: str | None) -> None:
        if compute_precision not in (None, "f32"):
            raise InputError(f"litert computes float layers in f32 only, not in {compute_precision!r}")
        self._engine = self.import_engine()
        try:
            with quiet_stderr():
                self._interpreter = self._engine.Interpreter(str(self.artifact.path), num_threads=self.threads)
                self._interpreter.allocate_tensors()
        # tflite-runtime fails with SystemError under numpy 2.
        except (RuntimeError, ValueError, SystemError) as error:
            if self._is_tflite_runtime:
                raise EngineError(
                    f"{self.artifact.path}: tflite-runtime cannot load it ({first_line(error)}); {_WAY_OUT}"
                ) from error
            raise self._refused(error) from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._require_tensors((entry["name"] for entry in inputs), (entry["name"] for entry in outputs))
        self._require_no_wrong_kernel()
        self._require_described(self.artifact.inputs, inputs)
        self._require_described(self.artifact.outputs, outputs)
        self._inputs = {entry["name"]: entry["index"] for entry in inputs}
        found = {entry["name"]: entry["index"] for entry in outputs}
        self._outputs = {spec.name: found[spec.name] for spec in self.artifact.outputs}

    def _require_described(self, specs: Sequence[TensorSpec], entries: Sequence[Mapping[str, Any]]) -> None:
        """Raises `MismatchError` where a tensor is of another type, or on another grid, than the manifest states."""
        found = {entry["name"]: entry for entry in entries}
        for spec in specs:
            dtype = np.dtype(found[spec.name]["dtype"]).name
            scale, zero_point = found[spec.name]["quantization"]
            if not scale and dtype == "uint8":  # bytes that stand for themselves
                scale = 1.0
            if dtype != spec.dtype or (spec.scale is not None and (np.float32(spec.scale), spec.zero_point) != (
                np.float32(scale), zero_point
            )):  # fmt: skip
                raise MismatchError(
                    f"{self.artifact.path}: its tensor {spec.name!r} is {dtype} with scale {scale} and zero point "
                    f"{zero_point}, the manifest describes {spec.dtype} with {spec.scale} and {spec.zero_point}; "
                    "export it again"
                )

    @property
    def _is_tflite_runtime(self) -> bool:
        return str(self._engine.__name__).startswith("tflite_runtime")

    def _require_no_wrong_kernel(self) -> None:
        """Refuses what tflite-runtime computes wrongly without an error (measured with 2.14: cosine -0.01 to float)."""
        if not self._is_tflite_runtime:
            return
        tensors = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        for operator in self._interpreter._get_ops_details():
            if operator["op_name"] != "FULLY_CONNECTED":
                continue
            data, weight = (tensors[index] for index in operator["inputs"][:2])
            per_channel = len(weight["quantization_parameters"]["scales"]) > 1
            if data["dtype"] == np.float32 and weight["dtype"] == np.int8 and per_channel:
                raise EngineError(
                    f"{self.artifact.path}: tflite-runtime computes dynamic INT8 with a scale for each channel "
                    f"wrongly, without an error; {_WAY_OUT}"
                )

    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            for name, array in inputs.items():
                self._interpreter.set_tensor(self._inputs[name], array)
            self._interpreter.invoke()
            return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}
        except (RuntimeError, ValueError) as error:
            raise self._failed(error) from error

    def _engine_environment(self) -> dict[str, Any]:
        package = _find_package()
        assert package is not None  # noqa: S101 - it has been imported
        return {
            "engine": f"{package.distribution} {version(package.distribution)}",
            "threads": self.threads,
            "compute_precision": "f32",
            "xnnpack": xnnpack_coverage(self._interpreter._get_ops_details()),
        }

    def close(self) -> None:
        """Frees the interpreter and its threads."""
        self._interpreter = None


def xnnpack_coverage(operators: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how many `operators` a file has, how many were `delegated` to XNNPACK, and in how many `partitions`.

    What is not delegated runs in plain kernels, which are an order of magnitude slower and round differently.

    Args:
        operators: `Interpreter._get_ops_details()`: the file's operators, and after them a `DELEGATE` for each
            partition with what goes into it and what comes out.
    """
    own = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    partitions = [operator for operator in operators if operator["op_name"] == "DELEGATE"]
    producer = {index: operator for operator in own for index in operator["outputs"]}
    delegated: set[int] = set()
    for partition in partitions:
        given = set(partition["inputs"])
        pending = list(partition["outputs"])
        while pending:
            index = pending.pop()
            operator = producer.get(index)
            if operator is None or index in given or operator["index"] in delegated:
                continue
            delegated.add(operator["index"])
            pending += list(operator["inputs"])
    return {"operators": len(own), "delegated": len(delegated), "partitions": len(partitions)}


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what the engine's C++ code logs while it loads a file off the user's terminal."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _find_package() -> _Package | None:
    return next((package for package in _PACKAGES if importlib.util.find_spec(package.name) is not None), None)
