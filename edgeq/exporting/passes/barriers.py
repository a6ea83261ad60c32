"""Barriers: operators that change nothing, where an engine does not load the file without them. Exact.

A barrier is `Max(x, x)`, which no engine removes. It takes over the name of the tensor.

Rules, by number:

1. Behind a Cast from another type that a normalisation written as nodes reads (ReduceMean and Sub): ONNX Runtime 1.32
   fuses the Cast with the norm, whose operator takes one type alone, and refuses the file.

In files with Q/DQ pairs for OpenVINO 2026.4:

2. Behind the Cast of a float64 input, whose doubles reach kernels that have none ("CPU plugin does not support f64",
   "unsupported src_prc: f64").
3. Behind a Concat that a linear layer reads, itself or through a Transpose, MaxPool or Relu, and that joins along
   another axis than the layer sums over. OpenVINO gives every joined part its own zero point and cannot apply them
   ("cannot be broadcasted (numpy mode) to 1"). Layers of more than two axes with a bias do not need it.
4. Behind a linear layer without a bias whose channels are pooled: their scales are moved behind the pool, where there
   are fewer channels ("Argument shapes are inconsistent").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import walk
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_HANDS_ON = frozenset({"MaxPool", "Relu", "QuantizeLinear", "DequantizeLinear"})
"""Operators through which OpenVINO moves zero points, besides Transpose."""

_POOLS = frozenset({"MaxPool", "AveragePool"})


def keep_norms_apart(model: ir.Model) -> RewriteReport:
    """Writes the barriers of rule 1, in place, and returns behind which nodes."""
    return _insert_behind(model, lambda node: node.op_type == "Cast" and _is_normalised(node.outputs[0]))


def keep_integers_apart(model: ir.Model) -> RewriteReport:
    """Writes the barriers of the rules 2 to 4 into a graph with shapes, in place, and returns behind which nodes."""
    if not any(node.op_type == "QuantizeLinear" for node in model.graph):
        return RewriteReport()
    return _insert_behind(model, lambda node: _is_cast_of_doubles(node) or _joins_rows(node) or _is_pooled(node))


def _insert_behind(model: ir.Model, is_meant: Callable[[ir.Node], bool]) -> RewriteReport:
    meant = [node for node in walk(model) if is_meant(node)]
    for node in meant:
        _insert(model, node)
    return RewriteReport(tuple(node.name or "?" for node in meant))


def _insert(model: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    given = node.outputs[0]
    barrier = ir.node("Max", [given, given], name=f"{given.name}_barrier")
    (result,) = barrier.outputs
    result.type, result.shape = given.type, given.shape
    readers = [use for use in given.uses() if use.node is not barrier]
    model.graph.insert_after(node, barrier)
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    for index, value in enumerate(model.graph.outputs):
        if value is given:
            model.graph.outputs[index] = result
    result.name, given.name = given.name, f"{given.name}_before_barrier"


def _is_normalised(value: ir.Value) -> bool:
    return {"ReduceMean", "Sub"} <= {use.node.op_type for use in value.uses()}


def _is_cast_of_doubles(node: ir.Node) -> bool:
    import onnx_ir as ir

    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.is_graph_input() and source.dtype == ir.DataType.DOUBLE


def _joins_rows(node: ir.Node) -> bool:
    rank = len(node.outputs[0].shape or ())
    return (
        node.op_type == "Concat" and rank > 1 and _become_rows(node.outputs[0], node.attributes["axis"].as_int() % rank)
    )


def _become_rows(value: ir.Value, axis: int) -> bool:
    """Returns whether a layer of rule 3 reads a tensor that was joined along an axis."""
    is_row = axis != len(value.shape or ()) - 1
    return any(_becomes_row(use.node, axis, is_row) for use in value.uses() if use.idx == 0)


def _becomes_row(node: ir.Node, axis: int, is_row: bool) -> bool:
    result = node.outputs[0]
    if _is_integer_layer(node):
        return is_row
    if node.op_type == "Reshape":
        # As `rewrite_linear` writes a layer of more than two axes.
        return is_row and any(_is_integer_layer(use.node) and not _has_bias(use.node) for use in result.uses())
    if node.op_type == "Transpose":
        rank = len(result.shape or ())
        order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else list(range(rank))[::-1]
        return _become_rows(result, order.index(axis))
    return node.op_type in _HANDS_ON and _become_rows(result, axis)


def _is_pooled(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    layer = source.producer() if source is not None and node.op_type == "Reshape" else node
    if layer is None or not _is_integer_layer(layer) or _has_bias(layer):
        return False
    return any(use.node.op_type in _POOLS for use in node.outputs[0].uses())


def _is_integer_layer(node: ir.Node) -> bool:
    weight = node.inputs[1].producer() if node.op_type in ("Gemm", "MatMul") and node.inputs[1] is not None else None
    return weight is not None and weight.op_type == "DequantizeLinear"


def _has_bias(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and node.inputs[2] is not None
