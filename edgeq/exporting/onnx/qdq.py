"""Writes a `QuantPlan` into a graph as QuantizeLinear/DequantizeLinear pairs (ONNX operator specification, opset 13).

Rules, by number:

1. Every tensor of the plan gets one pair, and every reader of it reads the dequantized side; layers that stay in float
   go on reading the tensor itself where the target wants it (`Rules.shared_pairs`).
2. Weights of INT8 nodes are stored as int8 behind a DequantizeLinear, or as float behind a QuantizeLinear and a
   DequantizeLinear (`Rules.float_weights`): symmetric, -127..127, one scale an output channel (ConvTranspose: one for
   the tensor where the target asks for it).
3. Biases are stored as int32 with scale `input scale * weight scale` where the target wants it.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibrators.grid import SMALLEST_AMAX
from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.planning.plan import QuantPlan, TensorGrid
from edgeq.quantizers.bias import quantize_bias, scale_for_bias

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.targets import Rules


def insert_qdq(model: ir.Model, plan: QuantPlan, rules: Rules) -> None:
    """Writes the plan into the graph, in place.

    Args:
        model: The float graph that the plan was made for.
        plan: What to quantize.
        rules: The target's rules for weights and biases.
    """
    int8_nodes = {choice.name for choice in plan.nodes if choice.precision == "int8"}
    for node in walk(model):
        if node.name in int8_nodes and weight_of(node) is not None:
            _quantize_layer(model, node, plan, rules)
    floats = {choice.name for choice in plan.nodes if choice.precision == "float"}
    _insert_pairs(model, plan, floats if rules.shared_pairs == "int8" else set())


def quantize_weight(weight: np.ndarray, axis: int | None, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Returns the int8 weight in -127..127 and its float32 scale, of shape `(channels,)` or `()`.

    Args:
        weight: Float weight.
        axis: Axis of the output channels, or `None` for one scale.
        bits: From 2 to 8; fewer take less of int8, 6 for example -31..31.
    """
    largest = np.abs(weight).max(axis=_others(weight, axis))
    scale = np.where(largest >= SMALLEST_AMAX, largest / (2 ** (bits - 1) - 1), 1.0).astype(np.float32)
    return round_to_int8(weight, scale, axis), scale


def dead_channels(integers: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns whether the integers of each index of `axis` (of the tensor, for `None`) are all zero."""
    dead: np.ndarray = np.asarray(~integers.any(axis=_others(integers, axis)))
    return dead


def _others(array: np.ndarray, axis: int | None) -> tuple[int, ...] | None:
    return tuple(i for i in range(array.ndim) if i != axis) if axis is not None else None


def round_to_int8(weight: np.ndarray, scale: np.ndarray, axis: int | None) -> np.ndarray:
    """Returns the nearest int8 multiples of `scale`, which has an entry for each index of `axis`, in -127..127."""
    steps = np.asarray(weight, np.float64) / _along(scale.astype(np.float64), weight.ndim, axis)
    integers: np.ndarray = np.clip(np.rint(steps), -127, 127).astype(np.int8)
    return integers


def _along(scale: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    if axis is None:
        return scale
    shape = [1] * rank
    shape[axis] = -1
    return scale.reshape(shape)


def _quantize_layer(model: ir.Model, node: ir.Node, plan: QuantPlan, rules: Rules) -> None:
    weight = weight_of(node)
    source = node.inputs[0]
    assert weight is not None and source is not None  # noqa: S101 - the plan only names weighted nodes
    name = str(source.name)
    grid = plan.tensors[name] if name in plan.tensors else plan.tied[name]
    axis = weight_axis(node, weight, rules)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    integers, scale = quantize_weight(weight, axis)
    if bias is not None and rules.quantize_bias:
        scale = scale_for_bias(scale, dead_channels(integers, axis), bias, grid.scale)
        integers = round_to_int8(weight, scale, axis)
        _dequantized_constant(model, node, 2, *quantize_bias(bias, scale, grid.scale), 0)
    if rules.float_weights:
        _quantized_constant(model, node, 1, scale, axis)
    else:
        _dequantized_constant(model, node, 1, integers, scale, axis)


def weight_axis(node: ir.Node, weight: np.ndarray, rules: Rules) -> int | None:
    """Returns the weight's axis that has a scale for each index, or `None` for one scale."""
    if node.op_type == "ConvTranspose":
        grouped = "group" in node.attributes and node.attributes["group"].as_int() > 1
        return 1 if rules.per_channel_conv_transpose and not grouped else None
    if node.op_type == "Gemm":
        return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
    return 0 if node.op_type == "Conv" else weight.ndim - 1


def _quantized_constant(model: ir.Model, node: ir.Node, index: int, scale: np.ndarray, axis: int | None) -> None:
    import onnx_ir as ir

    value = node.inputs[index]
    assert value is not None and value.name is not None  # noqa: S101 - the caller has read this input
    shared = [use.node for use in value.uses() if use.node.op_type == "QuantizeLinear"]
    if shared:  # two layers of one weight
        (dequantize,) = (use.node for use in shared[0].outputs[0].uses())
        node.replace_input_with(index, dequantize.outputs[0])
        return
    scales = new_initializer(model, f"{value.name}_scale", scale)
    zeros = new_initializer(model, f"{value.name}_zero_point", np.zeros(scale.shape, np.int8))
    attributes = {} if axis is None else {"axis": axis}
    quantize = ir.node("QuantizeLinear", [value, scales, zeros], attributes, name=f"{value.name}_quantize")
    integers = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [integers, scales, zeros], attributes, name=f"{value.name}_dequantize")
    result = dequantize.outputs[0]
    integers.name, integers.shape, integers.type = (
        f"{value.name}_quantized",
        value.shape,
        ir.TensorType(ir.DataType.INT8),
    )
    result.name, result.shape, result.type = f"{value.name}_dequantized", value.shape, value.type
    model.graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(index, result)


def _dequantized_constant(
    model: ir.Model, node: ir.Node, index: int, integers: np.ndarray, scale: np.ndarray, axis: int | None
) -> None:
    import onnx_ir as ir

    old = node.inputs[index]
    assert old is not None and old.name is not None  # noqa: S101 - the caller has read this input
    quantized = new_initializer(model, f"{old.name}_quantized", integers)
    scales = new_initializer(model, f"{old.name}_scale", scale)
    zeros = new_initializer(model, f"{old.name}_zero_point", np.zeros(scale.shape, integers.dtype))
    attributes = {} if axis is None else {"axis": axis}
    # The second layer of one weight or bias: its initializers got a number, and so do the node and its output.
    number = str(quantized.name).removeprefix(f"{old.name}_quantized")
    # ir.node takes plain attribute values.
    name = f"{old.name}_dequantize{number}"
    dequantize = ir.node("DequantizeLinear", [quantized, scales, zeros], attributes, name=name)
    result = dequantize.outputs[0]
    result.name, result.shape, result.type = f"{old.name}_dequantized{number}", ir.Shape(integers.shape), old.type
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(index, result)
    if not old.uses():
        del model.graph.initializers[old.name]


def _insert_pairs(model: ir.Model, plan: QuantPlan, apart: Set[str]) -> None:
    """Inserts the pairs of activations; nodes named in `apart` go on reading what they read."""
    shared: dict[TensorGrid, tuple[ir.Value, ir.Value]] = {}
    values = {value.name: value for value in model.graph.inputs}
    for node in model.graph:
        values.update({value.name: value for value in node.outputs})
    for name, grid in plan.tensors.items():
        _insert_pair(model, values[name], grid, shared, apart)


def _insert_pair(
    model: ir.Model,
    value: ir.Value,
    grid: TensorGrid,
    shared: dict[TensorGrid, tuple[ir.Value, ir.Value]],
    apart: Set[str],
) -> None:
    import onnx_ir as ir

    if grid not in shared:
        scale = new_initializer(model, f"{value.name}_scale", np.array(grid.scale, np.float32))
        zero = new_initializer(model, f"{value.name}_zero_point", np.array(grid.zero_point, grid.dtype))
        shared[grid] = (scale, zero)
    uses = [use for use in value.uses() if use.node.name not in apart]
    quantize = ir.node("QuantizeLinear", [value, *shared[grid]], name=f"{value.name}_quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *shared[grid]], name=f"{value.name}_dequantize")
    integer = ir.TensorType(ir.DataType.UINT8 if grid.dtype == "uint8" else ir.DataType.INT8)
    for output, suffix, kind in (
        (quantize.outputs[0], "quantized", integer),
        (dequantize.outputs[0], "dequantized", value.type),
    ):
        output.name, output.shape, output.type = f"{value.name}_{suffix}", value.shape, kind
    producer = value.producer()
    if producer is None:
        first = next(iter(model.graph))
        model.graph.insert_before(first, [quantize, dequantize])
    else:
        model.graph.insert_after(producer, [quantize, dequantize])
    for use in uses:
        use.node.replace_input_with(use.idx, dequantize.outputs[0])
