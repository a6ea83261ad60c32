"""Divides the channels of tensors by scales that the weights of their readers hold. Exact up to float rounding.

Rules, by number:

1. A LayerNorm that these layers alone read takes the scales into its own scale and shift.
2. A convolution that they alone read, behind a ReLU or not, takes them into its output channels: a ReLU lets positive
   factors through. A quantized weight takes them into its own scales, and its integers stay.
3. Everything else gets a Mul.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, weight_of
from edgeq.exporting.graphs.linear import set_constant
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.passes.layernorm import NormedLinears, normed_linears
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.jobs import ScaledInput
    from edgeq.quantizers import QuantizedWeight


@keeps_names
def divide_channels(
    model: ir.Model, inputs: Sequence[ScaledInput], weights: Mapping[str, QuantizedWeight]
) -> tuple[dict[str, QuantizedWeight], RewriteReport]:
    """Divides what layers read, in place; returns the quantized weights, some on other scales, and what was folded.

    Args:
        model: A cleaned graph with shapes.
        inputs: What to divide.
        weights: Layer -> its quantized weight, a matrix `(out, in)`.
    """
    found, done, left = dict(weights), [], {}
    for each in inputs:
        if _into_norm(model, each) or _into_convolution(model, each, found):
            done.append(each.tensor)
        else:
            _multiply(model, each)
            left[each.tensor] = "a Mul divides what its readers get"
    return found, RewriteReport(tuple(done), left)


def _into_norm(model: ir.Model, scaled: ScaledInput) -> bool:
    for _, norm in normed_linears(model):
        if isinstance(norm, NormedLinears) and norm.node.outputs[0].name == scaled.tensor:
            if {layer.name for layer in norm.readers} != set(scaled.layers):
                return False
            norm.replace(model, norm.gamma / scaled.scales, norm.beta / scaled.scales)
            return True
    return False


def _into_convolution(model: ir.Model, scaled: ScaledInput, weights: dict[str, QuantizedWeight]) -> bool:
    value = _value(model, scaled.tensor)
    if value is None or not _read_by(value, scaled.layers):
        return False
    node = value.producer()
    if node is not None and node.op_type == "Relu" and node.inputs[0] is not None:
        if len(node.inputs[0].uses()) != 1 or node.inputs[0].is_graph_output():
            return False
        node = node.inputs[0].producer()
    weight = weight_of(node) if node is not None and node.op_type == "Conv" else None
    bias = constant(node.inputs[2]) if node is not None and len(node.inputs) > 2 else None
    if node is None or weight is None or (len(node.inputs) > 2 and bias is None):
        return False
    quantized = weights.get(str(node.name))
    if quantized is not None and not quantized.scale.ndim:
        return False  # one scale for all channels
    if quantized is not None:
        scales = np.expand_dims(scaled.scales, tuple(range(1, quantized.scale.ndim)))
        weights[str(node.name)] = replace(quantized, scale=(quantized.scale / scales).astype(np.float32))
    else:
        shaped = np.expand_dims(scaled.scales, tuple(range(1, weight.ndim)))
        set_constant(model, node, 1, f"{node.name}.weight", (weight / shaped).astype(weight.dtype))
    if bias is not None:
        set_constant(model, node, 2, f"{node.name}.bias", (bias / scaled.scales).astype(bias.dtype))
    return True


def _multiply(model: ir.Model, scaled: ScaledInput) -> None:
    import onnx_ir as ir

    value = _value(model, scaled.tensor)
    assert value is not None  # noqa: S101 - layers read it
    readers = [use for use in value.uses() if use.node.name in scaled.layers and use.idx == 0]
    shape = (-1, 1, 1) if readers[0].node.op_type == "Conv" else (-1,)
    factors = new_initializer(model, f"{scaled.tensor}_factors", (1 / scaled.scales).reshape(shape).astype(np.float32))
    multiply = ir.node("Mul", [value, factors], name=f"{scaled.tensor}_scaled")
    (result,) = multiply.outputs
    result.name, result.type, result.shape = str(multiply.name), value.type, value.shape
    first = next(node for node in model.graph if any(use.node is node for use in readers))
    model.graph.insert_before(first, multiply)
    for use in readers:
        use.node.replace_input_with(use.idx, result)


def _read_by(value: ir.Value, layers: Sequence[str]) -> bool:
    """Returns whether exactly these layers read a tensor, and nothing else."""
    uses = list(value.uses())
    return not value.is_graph_output() and {str(use.node.name) for use in uses} == set(layers)


def _value(model: ir.Model, name: str) -> ir.Value | None:
    values = (*model.graph.inputs, *(output for node in model.graph for output in node.outputs))
    return next((value for value in values if value.name == name), None)
