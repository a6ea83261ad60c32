"""Writes a `QuantPlan` into a graph as QuantizeLinear/DequantizeLinear pairs (ONNX operator specification, opset 13).

Rules, by number:

1. Every tensor of the plan gets one pair, and every reader of it reads the dequantized side; layers that stay in float
   go on reading the tensor itself where the target wants it (`Rules.shared_pairs`), as does what moves values in float
   (`Rules.moved_in_float`).
2. Weights are stored as int8 behind a DequantizeLinear, or as float behind a QuantizeLinear and a DequantizeLinear
   (`Rules.float_weights`).
3. Biases that the plan has as integers are stored as int32 behind a DequantizeLinear.
4. Integers of less than 8 bits are stored as 8-bit ones; a Clip behind the QuantizeLinear of an activation keeps them
   on their grid.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, walk
from edgeq.exporting.graphs.moves import moved_inputs
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.onnx.float_layers import keep_in_float
from edgeq.exporting.planning.pairs import moves_in_float
from edgeq.exporting.planning.selection import activation_behind
from edgeq.quantizers.weight import QuantizedWeight, round_to

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.grid import Grid
    from edgeq.exporting.planning.plan import QuantPlan
    from edgeq.targets import Rules

_STORED_BITS = 8


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
    apart = _read_float(model, plan, rules)
    shared: dict[Grid, tuple[ir.Value, ir.Value]] = {}
    ends: dict[str, ir.Value] = {}
    for name, grid in plan.tensors.items():
        _insert_pair(model, values[name], grid, shared, ends, apart)
    if rules.quantizes_float:
        keep_in_float(model, plan.in_float)


def _read_float(model: ir.Model, plan: QuantPlan, rules: Rules) -> set[str]:
    """Returns the names of the nodes that go on reading a tensor itself where it has a pair (rule 1)."""
    apart = set(plan.in_float if rules.shared_pairs == "int8" else ())
    fused: set[str] = set()
    if rules.output_pairs == "required":  # the engine writes integers alone
        fused.update(str(activation_behind(node).name) for node in model.graph if node.name in plan.quantized)
    for node in model.graph:
        if moves_in_float(node, rules) and fused.isdisjoint(str(value.name) for value in moved_inputs(node)):
            apart.add(str(node.name))
    return apart


def _quantized_constant(model: ir.Model, node: ir.Node, index: int, quantized: QuantizedWeight) -> None:
    """Writes a weight as float behind a QuantizeLinear; what that does not round as the plan does is rounded before."""
    import onnx_ir as ir

    value = node.inputs[index]
    assert value is not None and value.name is not None  # noqa: S101 - the caller has read this input
    weight = constant(value)
    assert weight is not None  # noqa: S101 - the plan only names weighted nodes
    given = value
    if quantized.scheme.is_integer:
        rounded = round_to(weight, quantized.scale, quantized.zero_point, quantized.scheme)
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
    integers.type = ir.TensorType(ir.DataType.from_numpy(quantized.integers.dtype))
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
    if not old.uses() and not old.is_graph_output():
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
        zero = new_initializer(model, f"{value.name}_zero_point", np.array(grid.zero_point).astype(grid.dtype))
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
        output.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(grid.dtype)))
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


def _ends(model: ir.Model, grid: Grid, made: dict[str, ir.Value]) -> list[ir.Value]:
    """Returns the smallest and the largest integer of a grid as initializers, one pair for all grids of a type."""
    names = [f"{grid.scheme.type_name.lower()}_{end}" for end in ("least", "most")]
    for name, end in zip(names, (grid.qmin, grid.qmax), strict=True):
        if name not in made:
            made[name] = new_initializer(model, name, np.array(end, grid.dtype))
    return [made[name] for name in names]
