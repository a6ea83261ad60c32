"""What ONNX Runtime and OpenVINO compute on x86 CPUs without VNNI, on any CPU: sums of pairs end at 16 bits.

The layers whose kernels add so (`edgeq.exporting.saturation`) are computed bit by bit; ONNX Runtime without graph
optimizations computes the rest as it is written. What differs from the engines is the rounding of float layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.saturation.integer_layers import IntegerLayer, integer_layers
from edgeq.exporting.saturation.kernels import Engine
from edgeq.runtimes.base import Arrays, Session
from edgeq.runtimes.pair_sums import LayerSums, add_up
from edgeq.runtimes.staged_graph import Computed, StagedGraph


class _SimulatedAvx2Session(Session):
    """A file computed in saturating sums.

    Attributes:
        saturated: Name of a layer -> in how many sums of each output channel a pair was cut off so far.
        sums: Name of a layer -> how many sums each of its output channels had so far.
    """

    package = "onnxruntime"
    extra = None
    engine: ClassVar[Engine]

    def _open(self, compute_precision: str | None) -> None:
        if compute_precision not in (None, "f32"):
            raise InputError(f"{self.runtime} computes float layers in f32 only, not in {compute_precision!r}")
        self._engine = self.import_engine()
        self.saturated: dict[str, np.ndarray] = {}
        self.sums: dict[str, int] = {}
        graph = read_onnx(self.artifact.path)
        computed = {
            layer.output: Computed((0,) if layer.grids is not None else (0, 2), _Function(self, layer))
            for layer in integer_layers(graph, self.engine)
        }
        try:
            self._graph = StagedGraph(graph, computed)
        except Exception as error:
            raise self._refused(error) from error
        self._outputs = [spec.name for spec in self.artifact.outputs]

    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        try:
            arrays = self._graph.run(inputs)
        except Exception as error:
            raise self._failed(error) from error
        return {name: arrays[name] for name in self._outputs}

    def count(self, layer: IntegerLayer, sums: LayerSums) -> None:
        """Adds what a layer has cut off."""
        found = sums.cut.sum(axis=1)
        self.saturated[layer.name] = self.saturated.get(layer.name, 0) + found
        self.sums[layer.name] = self.sums.get(layer.name, 0) + sums.cut.shape[1]

    def _engine_environment(self) -> dict[str, Any]:
        version = self._engine.__version__
        return {
            "engine": f"numpy and onnxruntime {version} in place of {self.engine} on AVX2 without VNNI",
            "threads": self.threads,
            "compute_precision": "f32",
        }

    def close(self) -> None:
        """Frees the graph."""
        del self._graph


class _Function:
    """Computes one layer and counts what it cuts off."""

    def __init__(self, session: _SimulatedAvx2Session, layer: IntegerLayer) -> None:
        self._session, self._layer = session, layer

    def __call__(self, x: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
        """Returns the output for activations on the layer's grid, or for raw integers with their zero point."""
        layer, grids = self._layer, self._layer.grids
        if grids is None:
            start = 0 if zero is None else int(zero)
            sums = add_up(layer, x.astype(np.int16), start)
            self._session.count(layer, sums)
            return sums.restore(sums.totals).astype(np.int32)
        raw = np.rint(x / np.float32(grids.input_scale)) + grids.input_zero
        sums = add_up(layer, np.clip(raw, 0, 255).astype(np.int16), grids.input_zero)
        self._session.count(layer, sums)
        scale = np.float32(grids.input_scale) * grids.weight_scale
        real = sums.totals.astype(np.float32) * (scale[:, None] if scale.ndim else scale) + grids.bias[:, None]
        return np.ascontiguousarray(sums.restore(real), np.float32)


class SimulatedAvx2OnnxRuntimeSession(_SimulatedAvx2Session):
    """A file as ONNX Runtime computes it on AVX2 without VNNI."""

    runtime = "simulated-avx2-onnxruntime"
    engine = "onnxruntime"


class SimulatedAvx2OpenVinoSession(_SimulatedAvx2Session):
    """A file as OpenVINO computes it on AVX2 without VNNI."""

    runtime = "simulated-avx2-openvino"
    engine = "openvino"
