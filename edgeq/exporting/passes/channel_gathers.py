"""Takes out Gathers that only reorder channels, before a convolution. Exact.

OpenVINO (2026.4.1) fuses such a Gather with the convolution and reorders the weights by the inverse of what it should,
in FP32 too: right by luck where the order is its own inverse, as for RGB and BGR. Without the Gather it has nothing to
fuse, and nothing to move.

Rules, by number:

1. A constant Gather of all channels (axis 1), each once, in an order that is not its own inverse.
2. Where convolutions of one group alone read the result, straight or behind functions of single values, their weights
   are reordered.
3. Where others read it too, or a function has a constant for each channel, Slices and a Concat take the place of the
   Gather, unless no convolution can be reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.graphs.linear import set_constant
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_UNARY = frozenset({"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Clip", "Elu", "Abs", "Neg"})
_ELEMENTWISE = _UNARY | {"Add", "Sub", "Mul", "Div", "PRelu"}


def fold_channel_gathers(model: ir.Model) -> RewriteReport:
    """Takes out what rule 1 names, in place, and returns the names of the Gathers.

    Args:
        model: A cleaned graph with shapes.
    """
    done = []
    for node in walk(model):
        order = _order(node)
        if order is None:
            continue
        readers, is_plain = _readers(node.outputs[0])
        dense = [reader for reader in readers if _is_dense(reader)]
        if not dense:
            continue
        if is_plain and len(dense) == len(readers):
            for reader in dense:
                weight = weight_of(reader)
                assert weight is not None  # noqa: S101 - it is dense
                set_constant(model, reader, 1, f"{reader.name}.reordered", weight[:, np.argsort(order)])
            source = node.inputs[0]
            assert source is not None  # noqa: S101 - a Gather reads something
            node.outputs[0].replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
        else:
            _write_slices(model, node, order)
        done.append(str(node.name))
    return RewriteReport(tuple(done))


def _order(node: ir.Node) -> np.ndarray | None:
    """Returns the order of channels of a Gather of rule 1."""
    if node.op_type != "Gather" or "axis" not in node.attributes or node.attributes["axis"].as_int() != 1:
        return None
    source, indices = node.inputs[0], constant(node.inputs[1])
    shape = source.shape if source is not None else None
    if indices is None or indices.ndim != 1 or shape is None or len(shape) < 3 or shape[1] != len(indices):
        return None
    order = np.where(indices < 0, indices + len(indices), indices)
    if not np.array_equal(np.sort(order), np.arange(len(order))) or np.array_equal(order, np.argsort(order)):
        return None
    return order


def _readers(value: ir.Value) -> tuple[list[ir.Node], bool]:
    """Returns what reads a value, through functions of single values, and whether nothing depends on the channel."""
    found: list[ir.Node] = []
    is_plain = not value.is_graph_output()
    for use in value.uses():
        node = use.node
        if node.op_type not in _ELEMENTWISE:
            found.append(node)
            is_plain = is_plain and use.idx == 0
            continue
        further, plain = _readers(node.outputs[0])
        found += further
        is_plain = is_plain and plain and node.op_type in _UNARY
    return found, is_plain


def _is_dense(node: ir.Node) -> bool:
    groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return node.op_type == "Conv" and groups == 1 and weight_of(node) is not None


def _write_slices(model: ir.Model, node: ir.Node, order: np.ndarray) -> None:
    """Writes a Concat of Slices in place of a Gather, one for each run of equal steps."""
    import onnx_ir as ir

    source, result = node.inputs[0], node.outputs[0]
    axes = new_initializer(model, f"{node.name}_axes", np.array([1], np.int64))
    slices = []
    for number, (start, end, step) in enumerate(_runs(order)):
        bounds = [
            new_initializer(model, f"{node.name}_{name}{number}", np.array([bound], np.int64))
            for name, bound in (("start", start), ("end", end), ("step", step))
        ]
        inputs = [source, bounds[0], bounds[1], axes, bounds[2]]
        slices.append(ir.node("Slice", inputs, name=f"{node.name}_slice{number}"))
        part = slices[-1].outputs[0]
        part.name, part.type = f"{node.name}_part{number}", result.type
        if source is not None and source.shape is not None:
            length = len(range(start, max(end, -1), step))
            part.shape = ir.Shape([length if axis == 1 else dim for axis, dim in enumerate(source.shape)])
    joined = ir.node("Concat", [each.outputs[0] for each in slices], {"axis": 1}, name=f"{node.name}_joined")
    output, name = joined.outputs[0], result.name
    output.shape, output.type = result.shape, result.type
    model.graph.insert_before(node, [*slices, joined])
    result.replace_all_uses_with(output, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    output.name = name


def _runs(order: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns start, end and step of the longest runs of equal steps, as Slice takes them."""
    found = []
    first = 0
    while first < len(order):
        last = first + 1
        step = int(order[last] - order[first]) if last < len(order) else 1
        while last + 1 < len(order) and order[last + 1] - order[last] == step:
            last += 1
        last = min(last, len(order) - 1)
        end = int(order[last]) + (1 if step > 0 else -1)
        # Below zero an end would count from behind.
        found.append((int(order[first]), end if end >= 0 else -(2**31), step))
        first = last + 1
    return found
