"""What quantizing its input does to one layer's output, measured by running that layer alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibrators import Grid
from edgeq.errors import EngineError
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.planning.plan import channel_scheme
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import INT8_WEIGHT

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_STACK_BYTES = 1 << 24
"""Inputs or outputs of a layer for several grids at a time; the engine holds about four such stacks."""

_LOG_FATAL = 4


class LayerError:
    """A layer in ONNX Runtime, on its float input and on the same input on many grids.

    The bias is omitted: it cancels in the difference. A constant weight is on the symmetric grid of its channels,
    as all targets have it; a second activation stays as it is. One thread, so that sums come out the same everywhere.

    Args:
        node: A layer of a float graph: of `edgeq.exporting.graphs.graph.WEIGHTED_OPS` with a constant weight, or a
            MatMul of two activations.
        side: Which of its two inputs is quantized; 0 where the other is the weight.
        opset: The graph's opset.
        bits: Bits of the weight.
    """

    def __init__(self, node: ir.Node, side: int, opset: int, bits: int = 8) -> None:
        self._node, self._side, self._opset = node, side, opset
        weight = weight_of(node)
        self._weights: dict[str, np.ndarray] = {}
        self._axis = None
        if weight is not None:
            quantized = round_nearest(weight, channel_scheme(node, weight, INT8_WEIGHT.with_bits(bits)), {})
            self._axis = quantized.axis
            self._weights = {"other": weight, "integers": quantized.integers, "weight_scale": quantized.scale}
        self._sessions: dict[tuple[int, ...], Any] = {}

    def measure(self, value: np.ndarray, other: np.ndarray | None, grids: Sequence[Grid]) -> tuple[np.ndarray, float]:
        """Returns the squared error of the output for each grid, float64 `(len(grids),)`, and the output's own energy.

        Both are sums over all values of the output.

        Args:
            value: The input that is quantized, float32.
            other: The second activation, float32; `None` where there is a weight.
            grids: What to quantize to.

        Raises:
            EngineError: the engine cannot run the layer.
        """
        shape = value.shape
        if shape not in self._sessions:
            self._sessions[shape] = self._open(shape)
        session = self._sessions[shape]
        feeds = self._weights if other is None else {"other": other}
        at_once = max(1, _STACK_BYTES // (4 * max(value.size, self._output_size())))
        errors, energy = [], 0.0
        for start in range(0, len(grids), at_once):
            table = _columns(grids[start : start + at_once], value.ndim)
            try:
                found, energies = session.run(["errors", "energy"], {"value": value, **feeds, **table})
            except Exception as error:
                raise EngineError(f"layer {self._node.name} cannot be run by itself: {error}") from error
            errors.append(found.astype(np.float64))
            energy = float(energies)
        return np.concatenate(errors), energy

    def _output_size(self) -> int:
        shape = self._node.outputs[0].shape
        return int(np.prod([dim if isinstance(dim, int) else 1 for dim in shape])) if shape is not None else 0

    def _open(self, shape: tuple[int, ...]) -> Any:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = _LOG_FATAL
        # An arena would keep the largest stack of every layer until the end.
        options.enable_cpu_mem_arena = False
        try:
            return onnxruntime.InferenceSession(
                self._model(shape).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"layer {self._node.name} cannot be run by itself: {error}") from error

    def _model(self, shape: tuple[int, ...]) -> onnx.ModelProto:
        """Returns the layer twice, behind the float input and behind all grids, and the difference of both."""
        from onnx import TensorProto, helper, numpy_helper

        stacked = [-1, *shape] if self._node.op_type == "MatMul" else [-1, *shape[1:]]
        constants = {
            "one_more": np.array([1, *shape]), "stacked": np.array(stacked), "any": np.array([-1]),
            "row": np.array([1, -1]), "last_axis": np.array([1]), "no_axis": np.array([0]),
        }  # fmt: skip
        node = helper.make_node
        weighted = bool(self._weights)
        axis: dict[str, Any] = {} if self._axis is None else {"axis": self._axis}
        nodes = [
            node("Reshape", ["value", "one_more"], ["single"]),
            node("Div", ["single", "scale"], ["steps"]),
            node("Round", ["steps"], ["rounded"]),
            node("Max", ["rounded", "first"], ["floored"]),
            node("Min", ["floored", "last"], ["clipped"]),
            node("Mul", ["clipped", "scale"], ["scaled"]),
            node("Reshape", ["scaled", "stacked"], ["quantized"]),
            *([node("DequantizeLinear", ["integers", "weight_scale"], ["weight"], **axis)] if weighted else []),
            self._layer("value", "other", "reference"),
            self._layer("quantized", "weight" if weighted else "other", "outputs"),
            node("Reshape", ["reference", "row"], ["wanted"]),
            node("Size", ["reference"], ["count"]),
            node("Unsqueeze", ["count", "no_axis"], ["size"]),
            node("Concat", ["any", "size"], ["rows"], axis=0),
            node("Reshape", ["outputs", "rows"], ["found"]),
            node("Sub", ["found", "wanted"], ["difference"]),
            node("Mul", ["difference", "difference"], ["squares"]),
            node("ReduceSum", ["squares", "last_axis"], ["errors"], keepdims=0),
            node("Mul", ["wanted", "wanted"], ["powers"]),
            node("ReduceSum", ["powers"], ["energy"], keepdims=0),
        ]
        inputs = ["value", "scale", "first", "last", "other"]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
        if weighted:
            values.append(helper.make_tensor_value_info("integers", TensorProto.INT8, None))
            values.append(helper.make_tensor_value_info("weight_scale", TensorProto.FLOAT, None))
        graph = helper.make_graph(
            nodes,
            "layer_error",
            values,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("errors", "energy")],
            [numpy_helper.from_array(array.astype(np.int64), name) for name, array in constants.items()],
        )
        # Newer onnx writes an IR version that released engines do not read.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self._opset)], ir_version=8)

    def _layer(self, value: str, other: str, output: str) -> onnx.NodeProto:
        import onnx_ir as ir

        proto = ir.to_proto(self._node)
        proto.name = output
        del proto.input[:], proto.output[:]
        proto.input.extend([value, other] if self._side == 0 else [other, value])
        proto.output.append(output)
        return proto


def _columns(grids: Sequence[Grid], rank: int) -> dict[str, np.ndarray]:
    """Returns the grids' steps and ends, each `(len(grids), 1, ...)`, to go with a stack of tensors of that rank."""
    rows = [(grid.scale, grid.qmin - grid.zero_point, grid.qmax - grid.zero_point) for grid in grids]
    columns = np.array(rows, np.float32).T.reshape(3, len(grids), *(1,) * rank)
    return dict(zip(("scale", "first", "last"), columns, strict=True))
