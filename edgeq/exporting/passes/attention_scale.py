"""Folds attention's 1/sqrt(d) into the layers that compute queries and keys. Exact up to float rounding.

Exporters write it in front of the first matrix product, on the queries, or its root on the queries and on the keys, or
behind the product, on the scores. In the weights it costs nothing, and an INT8 product then reads what a quantized
layer wrote, with no float operator between the two.

Rules, by number:

1. An attention is a Softmax over the product of two activations, with at most one scale and, behind it, one added mask
   between the two. One that is written as a single Attention operator scales by itself and is not meant.
2. A scale is a Mul by, or a Div by, one positive constant number: of the scores, or of either input of the product,
   before, behind or between operators that only move values.
3. What is scaled comes from a Linear layer, straight or moved. The factor goes into the columns of weight and bias that
   it comes from; in a layer that computes queries, keys and values at once, into those of the queries alone. A factor
   of the scores goes to the queries.
4. Nothing else may read these columns: not the product's other input, not the values.
5. What does not qualify is left alone and named with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeq.exporting.graphs.channels import follow_channels
from edgeq.exporting.graphs.graph import constant, drop_unused, walk
from edgeq.exporting.graphs.linear import Linear, linear_of
from edgeq.exporting.graphs.moves import REARRANGES, moved_from
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_REACH = 4
"""How far in front of a Softmax a product is looked for that makes it an attention."""


class _Scale(NamedTuple):
    """What a node multiplies, and by which number."""

    value: ir.Value
    factor: float


def fold_attention_scale(model: ir.Model) -> RewriteReport:
    """Folds what can be folded, in place, and returns what was done, by the names of Mul and Div nodes.

    A Softmax over a product with something else between the two is left by its own name.

    Args:
        model: A cleaned graph with shapes.
    """
    done: list[str] = []
    left: dict[str, str] = {}
    for softmax in walk(model):
        if softmax.op_type != "Softmax":
            continue
        product, of_scores = _scores(softmax)
        if product is None:
            if between := _unknown_attention(softmax):
                left[softmax.name or "?"] = f"{between} is between the product and the Softmax"
            continue
        scales = [node for value in product.inputs for node in _scales(value)]
        for node in [*scales, *([] if of_scores is None else [of_scores])]:
            reason = _fold(model, node, product)
            if reason is None:
                done.append(node.name or "?")
            else:
                left[node.name or "?"] = reason
    drop_unused(model)
    return RewriteReport(tuple(done), left)


# Rule 1 -------------------------------------------------------------------------------------------------------------


def _scores(softmax: ir.Node) -> tuple[ir.Node | None, ir.Node | None]:
    """Returns the product that a Softmax is taken of and the scale of the scores, as far as there are such."""
    node = _producer(softmax.inputs[0])
    masked = node.inputs if node is not None and node.op_type == "Add" else softmax.inputs[:1]
    for value in masked:
        scale = _scale(_producer(value))
        product = _producer(value if scale is None else scale.value)
        if _is_product(product):
            return product, None if scale is None else _producer(value)
    return None, None


def _is_product(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "MatMul" and all(constant(value) is None for value in node.inputs)


def _unknown_attention(softmax: ir.Node) -> str | None:
    """Returns what stands in front of the Softmax of an attention that rule 1 does not cover."""
    first = _producer(softmax.inputs[0])
    front = [first]
    for _ in range(_REACH):
        if any(_is_product(node) for node in front):
            return None if first is None else f"{first.op_type} {first.name}"
        mixing = (node for node in front if node is not None and node.op_type in ("Add", "Mul", "Div", "Sub", "Where"))
        front = [_producer(value) for node in mixing for value in node.inputs]
    return None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


# Rule 2 -------------------------------------------------------------------------------------------------------------


def _scales(value: ir.Value | None) -> list[ir.Node]:
    """Returns the scales on the way to an input of the product, the first one applied first."""
    found: list[ir.Node] = []
    while value is not None:
        node = moved_from(value, REARRANGES).producer()
        scale = _scale(node)
        if node is None or scale is None:
            break
        found.insert(0, node)
        value = scale.value
    return found


def _scale(node: ir.Node | None) -> _Scale | None:
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    for index in (1,) if node.op_type == "Div" else (1, 0):
        array, value = constant(node.inputs[index]), node.inputs[1 - index]
        # A constant of more axes than the tensor would give it axes.
        if array is None or value is None or value.shape is None or array.size != 1 or array.ndim > len(value.shape):
            continue
        number = float(array.item())
        if number > 0:
            return _Scale(value, 1 / number if node.op_type == "Div" else number)
    return None


# Rules 3 and 4 ------------------------------------------------------------------------------------------------------


def _fold(model: ir.Model, node: ir.Node, product: ir.Node) -> str | None:
    """Folds one scale into the layer behind it and returns `None`, or the reason why that could not be."""
    scale = _scale(node)
    assert scale is not None  # noqa: S101 - it was found as one
    of_scores = scale.value is product.outputs[0]
    reader, value = (product, product.inputs[0]) if of_scores else (node, scale.value)
    assert value is not None  # noqa: S101 - the checker guarantees MatMul's inputs
    if node.outputs[0].is_graph_output():
        return "it is an output of the graph"
    if of_scores and (len(scale.value.uses()) > 1 or scale.value.is_graph_output()):
        return f"the scores of {product.name} have another use"
    source = moved_from(value, REARRANGES)
    layer = linear_of(source.producer())
    if layer is None or layer.output is not source:
        producer = source.producer()
        return f"what it scales comes from {producer.op_type if producer is not None else 'the input'}, no Linear layer"
    columns = _columns(layer, reader, value)
    if isinstance(columns, str):
        return columns
    factors = np.where(columns, scale.factor, 1.0)
    layer.replace(model, layer.weight * factors, layer.bias * factors)
    node.outputs[0].replace_all_uses_with(scale.value)
    model.graph.remove(node, safe=True)
    return None


def _columns(layer: Linear, reader: ir.Node, value: ir.Value) -> np.ndarray | str:
    """Returns which columns `(out,)` of a layer reach a reader, or why they are not its own."""
    own = np.zeros(layer.weight.shape[1], bool)
    others = own.copy()
    for each in follow_channels(layer.output):
        if each.channels is None:
            return f"the columns of {layer.name} could not be followed to {each.name}"
        mine = each.node is reader and each.value is value and not own.any()
        (own if mine else others)[np.unique(each.channels)] = True
    if (own & others).any():
        return f"{layer.name} computes it for other readers too"
    return own
