"""What ONNX Runtime and OpenVINO compute on x86 CPUs without VNNI, on any CPU: sums of pairs end at 16 bits.

The layers whose kernels add so (`edgeq.exporting.saturation`) are computed bit by bit; ONNX Runtime without graph
optimizations computes the rest as it is written. What differs from the engines is the rounding of float layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.saturation.integer_layers import IntegerLayer, integer_layers
from edgeq.exporting.saturation.kernels import Engine
from edgeq.runtimes.base import Arrays, Session
from edgeq.runtimes.pair_sums import LayerSums, add_up
from edgeq.runtimes.staged_graph import Computed, StagedGraph


@dataclass
class LayerLosses:
    """What a layer has lost in all runs so far, in its own inputs: what earlier layers have lost does not count.

    Attributes:
        channels: For each output channel, how many sums were too small or too large, `(channels,)`.
        sums: How many sums each channel had.
        signal: Energy of the exact sums.
        noise: Energy of what they lost.
    """

    channels: npt.NDArray[np.int64]
    sums: int = 0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def snr_db(self) -> float:
        """Exact sums over what they lost, in dB; infinite where nothing was lost."""
        return 10 * math.log10(self.signal / self.noise) if self.noise and self.signal else math.inf

    def add(self, sums: LayerSums) -> None:
        """Adds a run."""
        self.channels += np.count_nonzero(sums.lost, axis=1)
        self.sums += sums.lost.shape[1]
        self.signal += float(np.square((sums.totals + sums.lost).astype(np.float64)).sum())
        self.noise += float(np.square(sums.lost.astype(np.float64)).sum())


class SimulatedAvx2Session(Session):
    """A file computed in saturating sums.

    Attributes:
        layers: The layers whose kernels add so.
        losses: Name of a layer -> what it has lost.
    """

    package = "onnxruntime"
    extra = None
    engine: ClassVar[Engine]

    def _open(self, compute_precision: str | None) -> None:
        if compute_precision not in (None, "f32"):
            raise InputError(f"{self.runtime} computes float layers in f32 only, not in {compute_precision!r}")
        self._engine = self.import_engine()
        graph = read_onnx(self.artifact.path)
        self.layers = integer_layers(graph, self.engine)
        self.losses = {layer.name: LayerLosses(np.zeros(len(layer.paired.rows), np.int64)) for layer in self.layers}
        computed = {
            layer.output: Computed((0,) if layer.grids is not None else (0, 2), partial(self._compute, layer))
            for layer in self.layers
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

    def _compute(self, layer: IntegerLayer, x: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
        """Returns a layer's output for activations on its grid, or for raw integers with their zero point."""
        grids = layer.grids
        if grids is None:
            sums = add_up(layer, x.astype(np.int16), 0 if zero is None else int(zero))
            self.losses[layer.name].add(sums)
            return sums.restore(sums.totals).astype(np.int32)
        raw = np.rint(x / np.float32(grids.input_scale)) + grids.input_zero
        sums = add_up(layer, np.clip(raw, 0, 255).astype(np.int16), grids.input_zero)
        self.losses[layer.name].add(sums)
        scale = np.float32(grids.input_scale) * grids.weight_scale
        real = sums.totals.astype(np.float32) * (scale[:, None] if scale.ndim else scale) + grids.bias[:, None]
        return np.ascontiguousarray(sums.restore(real), np.float32)

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


class SimulatedAvx2OnnxRuntimeSession(SimulatedAvx2Session):
    """A file as ONNX Runtime computes it on AVX2 without VNNI."""

    runtime = "simulated-avx2-onnxruntime"
    engine = "onnxruntime"


class SimulatedAvx2OpenVinoSession(SimulatedAvx2Session):
    """A file as OpenVINO computes it on AVX2 without VNNI."""

    runtime = "simulated-avx2-openvino"
    engine = "openvino"
