"""Arithmetic that the engine at hand does not have: TensorRT's INT8 without the board, and integers of fewer bits.

`simulated-tensorrt` answers what an engine built from a Q/DQ file should. ONNX Runtime without graph optimizations
computes every QuantizeLinear as it is written (rounded half to even, cut off at -128 and 127) and every layer between
in FP32, on the very integers that TensorRT's kernels sum up in int32. What differs on the board: layers that stay in
float run in FP16, and the order of fusions. It tells nothing of the implicit route, where TensorRT picks the layers by
speed, and nothing of speed.

`simulated-narrow` computes the files of `edgeq.exporting.onnx.simulated_bits` in the same way.
"""

from __future__ import annotations

from typing import Any

from edgeq.errors import EngineError
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.tensorrt.cache import DEFAULT_VERSION
from edgeq.exporting.tensorrt.check import STRONG_TYPING_ONLY, check_graph, parse_version
from edgeq.exporting.tensorrt.qdq import has_fp16_scales
from edgeq.runtimes.onnxruntime import OnnxRuntimeSession


class _Unoptimized(OnnxRuntimeSession):
    """An ONNX file computed node by node, as it is written."""

    _stands_for: str

    def _session_options(self) -> Any:
        options = super()._session_options()
        options.graph_optimization_level = self._engine.GraphOptimizationLevel.ORT_DISABLE_ALL
        return options

    def _engine_environment(self) -> dict[str, Any]:
        facts = super()._engine_environment()
        return facts | {"engine": f"{facts['engine']} without graph optimizations in place of {self._stands_for}"}


class SimulatedNarrowSession(_Unoptimized):
    """A file of `edgeq.exporting.onnx.simulated_bits`: fewer bits than 8, for which no engine of ours has kernels."""

    runtime = "simulated-narrow"
    _stands_for = "kernels for so few bits"


class SimulatedTensorRtSession(_Unoptimized):
    """An ONNX file that TensorRT can read, computed on the CPU as its explicit route computes it."""

    runtime = "simulated-tensorrt"
    _stands_for = "TensorRT"

    def _open(self, compute_precision: str | None) -> None:
        model = read_onnx(self.artifact.path)
        # Weak typing has no use for scales in FP16: such a file is for the versions that type strongly alone.
        version = (STRONG_TYPING_ONLY, 0) if has_fp16_scales(model) else parse_version(DEFAULT_VERSION)
        errors = check_graph(model, version).errors
        if errors:
            more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
            raise EngineError(
                f"{self.artifact.path}: TensorRT would not compute it as it is written, so a simulation would "
                f"be meaningless: {errors[0].sentence}{more}; run: edgeq check {self.artifact.name}"
            )
        super()._open(compute_precision)


class SimulatedTensorRtRtxSession(SimulatedTensorRtSession):
    """The same of an engine of TensorRT for RTX."""

    runtime = "simulated-tensorrt-rtx"
    _stands_for = "TensorRT for RTX"
