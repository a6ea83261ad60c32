"""Computes what constants alone decide, once, instead of at every run. Exact.

A weight that is normalised, standardised, transposed, cast or dequantized in the graph is a constant all the same, and
only a constant weight can be quantized.

Rules, by number:

1. A node of the default domain is replaced by its outputs if all its inputs are constants; in graph order, so that
   chains fold. ONNX's own folder (`onnxscript`) leaves those of more than 8192 values, those with several outputs, and
   DequantizeLinear; this one has no such limit.
2. All folded nodes together may make a file larger by `MAX_GROWTH` values, and a node for which there is no room left
   stays: Expand, Tile and ConstantOfShape make huge arrays out of a few numbers.
3. A random node, one with a subgraph, and one whose result is an output of the graph are left.
4. In a graph that quantizes activations, QuantizeLinear and DequantizeLinear are left: the scales of the weights belong
   to those of the activations.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.data_flow import constant_values, is_repeatable
from edgeq.exporting.graphs.evaluate import evaluate
from edgeq.exporting.graphs.graph import constant, drop_unused, infer_shapes, new_initializer, opset_of, walk
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

MAX_GROWTH = 1 << 22
"""Values that all folded nodes together may add to a file: 16 MiB of float32."""

_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_QUANTIZING = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)


def fold_computed_constants(model: ir.Model) -> RewriteReport:
    """Replaces nodes by their results where constants alone decide them, in place.

    Args:
        model: A cleaned graph with shapes.

    Returns:
        What was folded, and what was left although constants alone decide it.
    """
    kept = _PAIRS if _quantizes_activations(model) else frozenset[str]()
    done: list[str] = []
    left: dict[str, str] = {}
    room = MAX_GROWTH
    for node in walk(model):
        if not is_repeatable(node) or not node.inputs or any(_is_computed(value) for value in node.inputs):
            continue
        growth = _growth(node)
        if node.op_type in kept:
            left[str(node.name)] = "the graph quantizes activations, and their scales belong together"
        elif any(output.is_graph_output() for output in node.outputs):
            left[str(node.name)] = "its result is an output of the graph"
        elif growth is None:
            left[str(node.name)] = "how large its result is shows only when it is computed"
        elif growth > room:
            left[str(node.name)] = f"its result would make the file {growth} values larger"
        elif not _fold(model, node):
            left[str(node.name)] = f"ONNX's reference implementation cannot compute {node.op_type}"
        else:
            room -= max(growth, 0)
            done.append(str(node.name))
    if done:
        drop_unused(model)
        infer_shapes(model)
    return RewriteReport(tuple(done), left)


def _is_computed(value: ir.Value | None) -> bool:
    return value is not None and (value.const_value is None or not value.is_initializer())


def _quantizes_activations(model: ir.Model) -> bool:
    constants = constant_values(model)
    return any(node.op_type in _QUANTIZING and node.inputs[0] not in constants for node in model.graph)


def _fold(model: ir.Model, node: ir.Node) -> bool:
    results = evaluate(node, [constant(value) for value in node.inputs], opset_of(model))
    if results is None:
        return False
    for output, array in zip(node.outputs, results, strict=True):
        if output.uses():
            output.replace_all_uses_with(new_initializer(model, str(output.name), array))
    model.graph.remove(node, safe=True)
    return True


def _growth(node: ir.Node) -> int | None:
    """Returns how many values a file gains if a node is replaced by its outputs; `None` if only computing it shows."""
    size = _size_of(node)
    if size is None:
        return None
    own = {id(value): value for value in node.inputs if value is not None and len(_readers(value)) == 1}
    return size - sum(array.size for value in own.values() if (array := constant(value)) is not None)


def _readers(value: ir.Value) -> set[ir.Node]:
    return {use.node for use in value.uses()}


def _size_of(node: ir.Node) -> int | None:
    """Returns how many values the outputs of a node hold at most, before they are computed."""
    sizes = []
    for output in node.outputs:
        if output.shape is None or not output.shape.is_static():
            return _bound(node)
        sizes.append(math.prod(output.shape.numpy()))
    return sum(sizes)


def _bound(node: ir.Node) -> int | None:
    """Returns the most values that come out of a node whose input's values decide the shape; `None` without a bound."""
    arrays = [array for value in node.inputs if (array := constant(value)) is not None]
    if node.op_type in ("NonZero", "Compress", "Unique"):
        return arrays[0].size * max(arrays[0].ndim, 1)
    if node.op_type == "Range":
        start, limit, delta = (float(array) for array in arrays)
        return math.ceil(abs((limit - start) / delta)) if delta else None
    if node.op_type in ("Expand", "ConstantOfShape"):
        return math.prod(int(length) for length in arrays[-1].reshape(-1))
    return None
