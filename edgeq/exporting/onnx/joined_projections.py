"""Joins the INT8 layers that compute queries, keys and values into one. The arithmetic stays the same.

TensorRT for RTX 1.7.1 runs three such products as one anyway, and writes their results in three kernels; those of one
layer in one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, data_inputs, new_initializer
from edgeq.exporting.graphs.moves import REARRANGES, moved_from
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.graphs.attentions import Attention

_WEIGHT_AXIS = 1
"""Of the output channels of a matrix that is multiplied from the right."""


@dataclass(frozen=True)
class _Layer:
    """A MatMul by a matrix behind a Q/DQ pair, with the Add of its bias.

    Attributes:
        output: What it gives.
        read: What it reads.
        nodes: The pair, the MatMul and the Add.
        weight: The float matrix, `(in, out)`.
        scale: `(out,)`.
        zero_point: `(out,)`.
        bias: `(out,)`; zeros if it has none.
    """

    output: ir.Value
    read: ir.Value
    nodes: tuple[ir.Node, ...]
    weight: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    bias: np.ndarray


@keeps_names
def join_projections(model: ir.Model, attentions: Sequence[Attention]) -> None:
    """Joins the layers of each attention that has three of one tensor, in place; others stay as they are.

    Args:
        model: A graph with its Q/DQ pairs, weights in float before them.
        attentions: Attentions of the graph.
    """
    for attention in attentions:
        found = [_layer(moved_from(value, REARRANGES)) for value in attention.operands]
        layers = [layer for layer in found if layer is not None]
        apart, sources = {layer.output for layer in layers}, {layer.read for layer in layers}
        if len(layers) == len(apart) == len(found) and len(sources) == 1:
            _join(model, layers)


def _layer(output: ir.Value) -> _Layer | None:
    """Returns the quantized layer that computes a tensor, if nothing else reads what is inside of it."""
    add = output.producer()
    bias = _bias_of(add)
    product = add if bias is None else next(iter(data_inputs(add))).producer() if add is not None else None
    if product is None or product.op_type != "MatMul" or output.is_graph_output():
        return None
    read, dequantize = product.inputs[0], _producer(product.inputs[1])
    quantize = _producer(dequantize.inputs[0]) if dequantize is not None else None
    if read is None or dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    weight, scale, zero_point = (constant(value) for value in quantize.inputs)
    if weight is None or scale is None or zero_point is None or weight.ndim != 2 or scale.shape != weight.shape[1:]:
        return None
    nodes = (quantize, dequantize, product) if bias is None or add is None else (quantize, dequantize, product, add)
    inside = [node.outputs[0] for node in nodes[:-1]]
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in inside):
        return None
    return _Layer(output, read, nodes, weight, scale, zero_point, np.zeros_like(scale) if bias is None else bias)


def _bias_of(node: ir.Node | None) -> np.ndarray | None:
    """Returns the constant vector that an Add adds to one tensor."""
    if node is None or node.op_type != "Add" or len(data_inputs(node)) != 1:
        return None
    (bias,) = (array for value in node.inputs if (array := constant(value)) is not None)
    return bias if bias.ndim == 1 else None


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _join(model: ir.Model, layers: Sequence[_Layer]) -> None:
    import onnx_ir as ir

    first = layers[0]
    name = f"{first.output.name}_joined"
    weight, scale, zero_point, bias = (
        new_initializer(model, f"{name}_{each}", np.concatenate([getattr(layer, each) for layer in layers], axis=-1))
        for each in ("weight", "scale", "zero_point", "bias")
    )
    sizes = new_initializer(model, f"{name}_sizes", np.array([len(layer.scale) for layer in layers], np.int64))
    axis = {"axis": _WEIGHT_AXIS}
    quantize = ir.node("QuantizeLinear", [weight, scale, zero_point], axis, name=f"{name}_weight_quantize")
    integers = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [integers, scale, zero_point], axis, name=f"{name}_weight_dequantize")
    product = ir.node("MatMul", [first.read, dequantize.outputs[0]], name=f"{name}_product")
    add = ir.node("Add", [product.outputs[0], bias], name=name)
    shape = first.output.shape
    rank = len(shape) if shape is not None else 3
    split = ir.node("Split", [add.outputs[0], sizes], {"axis": rank - 1}, num_outputs=len(layers), name=f"{name}_split")
    float_type = first.output.type
    integers.name, integers.shape, integers.type = f"{name}_integers", weight.shape, ir.TensorType(ir.DataType.INT8)
    dequantize.outputs[0].name, dequantize.outputs[0].shape = f"{name}_dequantized", weight.shape
    dequantize.outputs[0].type = float_type
    for value, called in ((product.outputs[0], f"{name}_product"), (add.outputs[0], name)):
        width = len(bias.const_value.numpy()) if bias.const_value is not None else None
        value.name, value.type = called, float_type
        value.shape = None if shape is None else ir.Shape([*shape[:-1], width])
    model.graph.insert_before(first.nodes[0], [quantize, dequantize, product, add, split])
    for layer, part in zip(layers, split.outputs, strict=True):
        part.name, part.shape, part.type = layer.output.name, layer.output.shape, layer.output.type
        layer.output.replace_all_uses_with(part)
    for layer in layers:
        read = [value for node in layer.nodes for value in node.inputs if value is not None]
        model.graph.remove(reversed(layer.nodes), safe=True)
        for value in read:
            if value.is_initializer() and not value.uses() and not value.is_graph_output():
                model.graph.initializers.pop(str(value.name), None)
