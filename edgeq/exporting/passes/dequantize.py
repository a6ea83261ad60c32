"""Makes a float graph of a quantized one, and hands out the scales that it held. Exact but for the rounding.

Rules, by number:

1. A pair of QuantizeLinear and DequantizeLinear goes; what it rounded has the pair's range. Constants become real
   numbers.
2. Where a range begins at zero, and nothing before it says that there are no negative numbers, stands a Relu, or a Clip
   where it ends at six: the tools leave out one that the QuantizeLinear behind it makes superfluous.
3. QLinear operators become those on real numbers (`edgeq.exporting.passes.qlinear`); operators that move integers move
   real numbers.
4. An input of integers stays with its DequantizeLinear, an output with its QuantizeLinear.
5. Of two ranges for one tensor the first counts: the other is that of one reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant, drop_unused, walk
from edgeq.exporting.graphs.integer_grid import grid_at
from edgeq.exporting.graphs.moves import MOVES_VALUES
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.graphs.quantized import DOMAINS
from edgeq.exporting.passes.bypass import bypass_identities
from edgeq.exporting.passes.qlinear import OPERATORS
from edgeq.exporting.passes.real_tensors import RealTensors, TakenScales
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_MOVES_INTEGERS = MOVES_VALUES | {"Identity", "Relu"}


def dequantize(model: ir.Model, taken: TakenScales) -> RewriteReport:
    """Brings a cleaned graph to real numbers, in place.

    Args:
        model: The graph.
        taken: Gets the scales.

    Raises:
        ModelError: a scale is computed at every run, an activation has several, or an operator computes with integers
            that edgeq does not know.
    """
    work = RealTensors(model)
    done = keeps_names(_rewrite)(model, work)
    for value, found in work.ranges:
        taken.tensors.setdefault(str(value.name), found)
    taken.weights.update({str(value.name): (grid.scale, grid.axis) for value, grid in work.weights})
    return RewriteReport(done)


def _rewrite(model: ir.Model, work: RealTensors) -> tuple[str, ...]:
    done = []
    for node in walk(model):
        kind = node.op_type if node.domain in DOMAINS else ""
        if kind == "QuantizeLinear":
            _quantize(node, work)
        elif kind == "DequantizeLinear":
            _dequantize(node, work)
        elif kind in OPERATORS:
            OPERATORS[kind](model, node, work)
        elif any(work.knows(value) for value in node.inputs):
            _move(model, node, work)
        else:
            continue
        done.append(str(node.name))
    bypass_identities(model)
    drop_unused(model)
    return tuple(done)


def _quantize(node: ir.Node, work: RealTensors) -> None:
    import onnx_ir as ir

    source, output = node.inputs[0], node.outputs[0]
    assert source is not None  # noqa: S101 - the checker guarantees it
    dtype = None if output.dtype is None or output.dtype == ir.DataType.UNDEFINED else output.dtype.numpy()
    grid = grid_at(node, 1, 2, dtype)
    array = constant(source)
    if array is None:
        work.stands_for(output, source, grid, node)
        if output.is_graph_output():
            node.replace_input_with(0, work.real(node, output, grid, ""))
    else:
        rounded = grid.dequantize(grid.quantize(array))
        value = work.constant(rounded, f"{source.name}_rounded", grid)
        work.stands_for_constant(output, value, grid)


def _dequantize(node: ir.Node, work: RealTensors) -> None:
    source = node.inputs[0]
    assert source is not None  # noqa: S101 - the checker guarantees it
    array = constant(source)
    dtype = None if source.dtype is None else source.dtype.numpy()
    grid = grid_at(node, 1, 2, dtype)
    if array is None and not work.knows(source):
        work.ranges.append((node.outputs[0], grid.range()))  # an input of integers
        return
    value = work.real(node, source, grid, str(node.outputs[0].name))
    node.op_type, node.domain = "Identity", ""
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, value)


def _move(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    """Has an operator that moves integers move real numbers."""
    import onnx_ir as ir

    if node.op_type not in _MOVES_INTEGERS or node.domain not in DOMAINS:
        raise ModelError(
            f"{node.op_type} {node.name!r} computes with integers, of which edgeq takes no scales; give the float model"
        )
    known = next(value for value in node.inputs if value is not None and work.knows(value))
    grid = work.grid_of(known)
    for position, value in enumerate(node.inputs):
        is_constant = node.op_type == "Concat" or (node.op_type == "Pad" and position == 2)
        if value is not None and (work.knows(value) or is_constant):
            node.replace_input_with(position, work.real(node, value, grid, f"{value.name}_real"))
    real = node.inputs[0]
    for output in node.outputs:
        output.type = ir.TensorType(real.dtype if real is not None and real.dtype is not None else ir.DataType.FLOAT)
        work.moved(output, grid)
