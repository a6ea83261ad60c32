"""The rules of `edgeq check` about Q and DQ nodes: T3 to T6, T11 and T14 of `edgeq.exporting.tensorrt.check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.float4 import FLOAT4, scale_of
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, constant
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.tensorrt.findings import Builder, Finding, finding
from edgeq.exporting.tensorrt.qdq import DQ, FP8, Q, axis_of, data_type, gives_scales, is_constant, readers, weight_axis

if TYPE_CHECKING:
    import onnx_ir as ir


def zero_point(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields what is wrong with the integers of a Q or DQ node (T3)."""
    if node.op_type not in (Q, DQ) or data_type(node) == "INT32" or _is_weight_alone(node, builder):
        return
    if builder.strongly_typed and gives_scales(node):
        return
    value = node.inputs[2] if len(node.inputs) > 2 else None
    kind = data_type(node)
    array = None if value is None else constant(value)
    is_shifted = array is not None and bool(array.any())
    if value is None:
        severity = builder.misplaced if builder.version < (10, 0) else "advice"
        yield finding("T3", severity, node, "has no zero point; wanted int8 zeros as third input")
    elif kind == "UINT8" and builder.strongly_typed and array is not None and not is_shifted:
        # The parser reads them as int8, whose upper half they then miss.
        yield finding("T3", "advice", node, "has integers of the type UINT8, half of which TensorRT uses; wanted INT8")
    elif kind != "INT8" and not (kind == FP8 and builder.strongly_typed):
        yield finding("T3", "error", node, f"has integers of the type {kind}; wanted INT8")
    elif array is None:
        yield finding("T3", "error", node, "computes its zero point; wanted constant zeros")
    elif is_shifted:
        found = array.ravel()[np.flatnonzero(array)[0]]
        yield finding("T3", "error", node, f"has the zero point {found}; wanted zero, a symmetric grid")


def _is_weight_alone(node: ir.Node, builder: Builder) -> bool:
    """Returns whether a node stores a weight in INT4, FP4 or INT8, on a symmetric grid, for layers that read floats."""
    is_stored = node.op_type == DQ and data_type(node) in ("INT4", FLOAT4, "INT8")
    return is_stored and _reads_weights(node, builder) and (len(node.inputs) < 3 or not _is_shifted(node.inputs[2]))


def _is_shifted(value: ir.Value | None) -> bool:
    array = constant(value)
    return value is not None and (array is None or bool(array.any()))


def _reads_weights(node: ir.Node, builder: Builder) -> bool:
    layers = readers(node.outputs[0])
    return bool(layers) and all(
        each.op_type in WEIGHTED_OPS and builder.pairs.kind(each) == "weights" for each in layers
    )


def scale(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields what is wrong with the values of a scale (T4)."""
    del builder
    if node.op_type not in (Q, DQ):
        return
    found = scale_of(node)
    if found is None:
        yield finding("T4", "error", node, "computes its scale; wanted a constant")
    elif not (np.isfinite(found).all() and (found > 0).all()):
        wrong = found.ravel()[np.flatnonzero(~(np.isfinite(found) & (found > 0)))[0]]
        yield finding("T4", "error", node, f"has the scale {wrong}; wanted a finite number above zero")


def axis(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields what is wrong with the number and the axis of scales (T5)."""
    if node.op_type not in (Q, DQ):
        return
    found, data = scale_of(node), node.inputs[0]
    if found is None or found.size == 1 or data is None:
        return
    if not is_constant(data):
        said = f"has {found.size} scales for an activation; wanted one for the tensor"
        yield finding("T5", builder.misplaced, node, said)
        return
    if "block_size" in node.attributes and _reads_weights(node, builder):
        return
    shape = [] if data.shape is None else [dim for dim in data.shape if isinstance(dim, int)]
    place = axis_of(node, len(shape))
    if found.ndim != 1 or not place < len(shape) or shape[place] != found.size:
        yield finding("T5", "error", node, f"has {found.shape} scales on axis {place} of a weight {tuple(shape)}")
        return
    for layer in readers(node.outputs[0]):
        wanted = weight_axis(layer, len(shape))
        if node.op_type == DQ and wanted is not None and place != wanted:
            said = f"has its scales on axis {place}; {layer.op_type} needs axis {wanted}"
            yield finding("T5", builder.misplaced, node, said)


def bias(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields biases in integers (T6)."""
    del builder
    if node.op_type == DQ and data_type(node) == "INT32":
        yield finding("T6", "error", node, "dequantizes int32, a bias; TensorRT needs biases in float")


def one_pair(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields pairs that do not belong together, and tensors with more than one (T11)."""
    del builder
    if node.op_type != Q or node.inputs[0] is None:
        return
    for reader in readers(node.outputs[0]):
        if reader.op_type != DQ:
            yield finding("T11", "error", node, f"is read by {reader.op_type} {reader.name}; wanted a {DQ}")
        elif not _same(scale_of(node), scale_of(reader)):
            yield finding("T11", "error", node, f"and {reader.name} have different scales; wanted one")
    others = [each for each in readers(node.inputs[0]) if each.op_type == Q and each is not node]
    if others and constant(node.inputs[0]) is None and str(node.name) < min(str(each.name) for each in others):
        yield finding("T11", "advice", node, f"and {others[0].name} quantize one tensor; wanted one pair for all")
    again = node.inputs[0].producer()
    if again is not None and again.op_type == DQ:
        yield finding("T11", "advice", node, f"quantizes again what {again.name} has dequantized; wanted one pair")


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    return first is None or second is None or np.array_equal(first.ravel(), second.ravel())


def strong_scale(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields scales in FP32 under strong typing (T14); convolutions alone read and write the same with them."""
    if not builder.strongly_typed or node.op_type not in (Q, DQ) or node.inputs[1] is None:
        return
    kind = node.inputs[1].dtype
    if kind is None or kind.name != "FLOAT":
        return
    if node.op_type == Q and _all_dequantized_in_fp16(node):  # it takes FP32, and hands on integers
        return
    layers = list(_layers_behind(node))
    if layers and all(layer.op_type == "Conv" and builder.pairs.is_narrow(layer) for layer in layers):
        said = "has an FP32 scale, so that what is between its layers is FP32; wanted FP16"
        yield finding("T14", "advice", node, said)
    else:
        yield finding("T14", "error", node, "has an FP32 scale, so that its layers compute in FP32; wanted FP16")


def _all_dequantized_in_fp16(node: ir.Node) -> bool:
    """Returns whether all that reads a QuantizeLinear is FP16, as behind an island of `to_fp16`."""
    scales = [use.node.inputs[1] for use in node.outputs[0].uses() if use.node.op_type == DQ]
    types = [None if scale is None or scale.dtype is None else scale.dtype.name for scale in scales]
    return bool(types) and set(types) == {"FLOAT16"}


def _layers_behind(node: ir.Node) -> Iterator[ir.Node]:
    """Yields what reads the floats that a Q or DQ node leads to, looking through pairs and moves."""
    for reader in readers(node.outputs[0]):
        if reader.op_type in (Q, DQ, "Identity") or moves_values(reader):
            yield from _layers_behind(reader)
        else:
            yield reader
