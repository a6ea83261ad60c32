"""Writes a `QuantPlan` into a graph as QuantizeLinear/DequantizeLinear pairs (ONNX operator specification, opset 13).

Rules, by number:

1. Every tensor of the plan gets one pair, and every reader of it reads the dequantized side; layers that stay in float
   go on reading the tensor itself where the target wants it (`Rules.shared_pairs`).
2. Weights are stored as int8 behind a DequantizeLinear, or as float behind a QuantizeLinear and a DequantizeLinear
   (`Rules.float_weights`).
3. Biases that the plan has as integers are stored as int32 behind a DequantizeLinear.
4. A layer with a float weight between two pairs reads through a DequantizeLinear with a scale for each channel, all of
   them equal. Behind a single scale ONNX Runtime would round its weight to INT8, with one scale for all channels (its
   optimizer WeightBiasQuantization), and so undo what `keep` and the plan keep in float.
5. Integers of less than 8 bits are stored as 8-bit ones; a Clip behind the QuantizeLinear of an activation keeps them
   on their grid.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.graphs.names import keeps_names
from edgeq.quantizers.weight import QuantizedWeight, round_to

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.grid import Grid
    from edgeq.exporting.planning.plan import QuantPlan
    from edgeq.targets import Rules

_STORED_BITS = 8

_ROUNDED_BY_ENGINES = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators whose float weights ONNX Runtime rounds to INT8 between two pairs."""


@keeps_names
def insert_qdq(model: ir.Model, plan: QuantPlan, rules: Rules) -> None:
    """Writes the plan into the graph, in place.

    Args:
        model: The float graph that the plan was made for.
        plan: What to quantize.
        rules: The forms that the target's engines take.
    """
    values = {value.name: value for value in model.graph.inputs}
    for node in walk(model):
        values.update({value.name: value for value in node.outputs})
        name = str(node.name)
        if name in plan.biases:
            _dequantized_constant(model, node, 2, plan.biases[name])
        if name in plan.weights:
            write = _quantized_constant if rules.float_weights else _dequantized_constant
            write(model, node, 1, plan.weights[name])
    apart = plan.in_float if rules.shared_pairs == "int8" else frozenset()
    shared: dict[Grid, tuple[ir.Value, ir.Value]] = {}
    ends: dict[str, ir.Value] = {}
    for name, grid in plan.tensors.items():
        _insert_pair(model, values[name], grid, shared, ends, apart)
    _dequantize_by_channel(model)


def _quantized_constant(model: ir.Model, node: ir.Node, index: int, quantized: QuantizedWeight) -> None:
    """Writes a weight as float behind a QuantizeLinear; what that does not round as the plan does is rounded before."""
    import onnx_ir as ir

    value = node.inputs[index]
    assert value is not None and value.name is not None  # noqa: S101 - the caller has read this input
    weight = constant(value)
    assert weight is not None  # noqa: S101 - the plan only names weighted nodes
    rounded = round_to(weight, quantized.scale, quantized.zero_point, quantized.scheme)
    given = value
    if not np.array_equal(rounded, quantized.integers):
        given = new_initializer(model, f"{value.name}_rounded", quantized.dequantize())
    scales = new_initializer(model, f"{value.name}_scale", quantized.scale)
    zeros = new_initializer(model, f"{value.name}_zero_point", quantized.zero_point)
    attributes = {} if quantized.axis is None else {"axis": quantized.axis}
    # Two layers of one weight: their axes and scales need not be the same.
    number = str(scales.name).removeprefix(f"{value.name}_scale")
    quantize = ir.node("QuantizeLinear", [given, scales, zeros], attributes, name=f"{value.name}_quantize{number}")
    integers = quantize.outputs[0]
    name = f"{value.name}_dequantize{number}"
    dequantize = ir.node("DequantizeLinear", [integers, scales, zeros], attributes, name=name)
    result = dequantize.outputs[0]
    integers.name, integers.shape = f"{value.name}_quantized{number}", value.shape
    integers.type = ir.TensorType(ir.DataType.INT8)
    result.name, result.shape, result.type = f"{value.name}_dequantized{number}", value.shape, value.type
    model.graph.insert_before(node, [quantize, dequantize])
    node.replace_input_with(index, result)


def _dequantized_constant(model: ir.Model, node: ir.Node, index: int, constants: QuantizedWeight) -> None:
    """Writes a weight or bias as integers behind a DequantizeLinear."""
    import onnx_ir as ir

    old = node.inputs[index]
    assert old is not None and old.name is not None  # noqa: S101 - the caller has read this input
    quantized = new_initializer(model, f"{old.name}_quantized", constants.integers)
    scales = new_initializer(model, f"{old.name}_scale", constants.scale)
    zeros = new_initializer(model, f"{old.name}_zero_point", constants.zero_point)
    attributes = {} if constants.axis is None else {"axis": constants.axis}
    # The second layer of one weight or bias: its initializers got a number, and so do the node and its output.
    number = str(quantized.name).removeprefix(f"{old.name}_quantized")
    # ir.node takes plain attribute values.
    name = f"{old.name}_dequantize{number}"
    dequantize = ir.node("DequantizeLinear", [quantized, scales, zeros], attributes, name=name)
    result = dequantize.outputs[0]
    result.name, result.shape, result.type = (
        f"{old.name}_dequantized{number}",
        ir.Shape(constants.integers.shape),
        old.type,
    )
    model.graph.insert_before(node, dequantize)
    node.replace_input_with(index, result)
    if not old.uses():
        del model.graph.initializers[old.name]


def _insert_pair(
    model: ir.Model,
    value: ir.Value,
    grid: Grid,
    shared: dict[Grid, tuple[ir.Value, ir.Value]],
    ends: dict[str, ir.Value],
    apart: Set[str],
) -> None:
    """Inserts the pair of an activation; nodes named in `apart` continue to read what they read."""
    import onnx_ir as ir

    if grid not in shared:
        scale = new_initializer(model, f"{value.name}_scale", np.array(grid.scale, np.float32))
        zero = new_initializer(model, f"{value.name}_zero_point", np.array(grid.zero_point, grid.dtype))
        shared[grid] = (scale, zero)
    uses = [use for use in value.uses() if use.node.name not in apart]
    nodes = [ir.node("QuantizeLinear", [value, *shared[grid]], name=f"{value.name}_quantize")]
    if grid.scheme.bits < _STORED_BITS:
        nodes.append(ir.node("Clip", [nodes[0].outputs[0], *_ends(model, grid, ends)], name=f"{value.name}_clip"))
    integers = nodes[-1].outputs[0]
    nodes.append(ir.node("DequantizeLinear", [integers, *shared[grid]], name=f"{value.name}_dequantize"))
    for node, suffix in zip(nodes, ("quantized", "clipped") if len(nodes) > 2 else ("quantized",), strict=False):
        output = node.outputs[0]
        output.name, output.shape = f"{value.name}_{suffix}", value.shape
        output.type = ir.TensorType(ir.DataType[grid.dtype.upper()])
    result = nodes[-1].outputs[0]
    result.name, result.shape, result.type = f"{value.name}_dequantized", value.shape, value.type
    producer = value.producer()
    if producer is None:
        first = next(iter(model.graph))
        model.graph.insert_before(first, nodes)
    else:
        model.graph.insert_after(producer, nodes)
    for use in uses:
        use.node.replace_input_with(use.idx, result)


def _dequantize_by_channel(model: ir.Model) -> None:
    """Gives layers with float weights between two pairs a DequantizeLinear of their own (rule 4)."""
    made: dict[ir.Value, ir.Value] = {}
    for node in walk(model):
        value = node.inputs[0] if node.op_type in _ROUNDED_BY_ENGINES and weight_of(node) is not None else None
        single = value.producer() if value is not None else None
        axis = None if value is None else _long_axis(value)
        if value is None or single is None or single.op_type != "DequantizeLinear" or axis is None:
            continue
        if not _leads_to_pair(node.outputs[0]):
            continue
        if value not in made:
            made[value] = _by_channel(model, single, axis)
        node.replace_input_with(0, made[value])
        if not value.uses() and not value.is_graph_output():
            model.graph.remove(single, safe=True)


def _by_channel(model: ir.Model, single: ir.Node, axis: int) -> ir.Value:
    """Returns what a DequantizeLinear with one scale gives, of one with that scale for each channel."""
    import onnx_ir as ir

    value = single.outputs[0]
    integers, *parameters = single.inputs
    length = None if value.shape is None else value.shape[axis]
    assert isinstance(length, int)  # noqa: S101 - `_long_axis` has looked
    arrays = [constant(parameter) for parameter in parameters]
    repeated = [
        new_initializer(model, f"{value.name}_{suffix}", np.repeat(array, length))
        for suffix, array in zip(("scales", "zero_points"), arrays, strict=True)
        if array is not None
    ]
    node = ir.node("DequantizeLinear", [integers, *repeated], {"axis": axis}, name=f"{value.name}_by_channel")
    (result,) = node.outputs
    result.name, result.shape, result.type = node.name, value.shape, value.type
    model.graph.insert_after(single, node)
    return result


def _leads_to_pair(value: ir.Value) -> bool:
    """Returns whether nothing but a QuantizeLinear reads a value, or what a ReLU or a move makes of it."""
    while len(uses := value.uses()) == 1 and not value.is_graph_output():
        (use,) = uses
        if use.node.op_type == "QuantizeLinear":
            return True
        if use.node.op_type not in ("Relu", "Clip") and not moves_values(use.node):
            break
        value = use.node.outputs[0]
    return False


def _long_axis(value: ir.Value) -> int | None:
    """Returns the axis of the channels, or another of a known length above 1; `None` where there is none."""
    lengths = [] if value.shape is None else list(value.shape)
    known = [axis for axis, length in enumerate(lengths) if isinstance(length, int) and length > 1]
    return min(known, key=lambda axis: axis != 1, default=None)


def _ends(model: ir.Model, grid: Grid, made: dict[str, ir.Value]) -> list[ir.Value]:
    """Returns the smallest and the largest integer of a grid as initializers, one pair for all grids of a type."""
    names = [f"{grid.scheme.type_name.lower()}_{end}" for end in ("least", "most")]
    for name, end in zip(names, (grid.qmin, grid.qmax), strict=True):
        if name not in made:
            made[name] = new_initializer(model, name, np.array(end, grid.dtype))
    return [made[name] for name in names]
