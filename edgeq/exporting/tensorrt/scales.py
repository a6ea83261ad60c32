"""Scales for the implicit route, from the plan of the explicit one: one for every tensor around an INT8 layer.

Rules, by number:

1. Tensors of the plan, and those on the same grid, have the plan's scale: both routes compute on the same numbers.
2. The output of an INT8 layer has the scale of the activation that TensorRT fuses behind it (ReLU, Clip, SiLU, ...):
   the layer never writes its own output. A Sigmoid ends at 1.
3. Other tensors have none. TensorRT then computes what reads or writes them in float, as the plan wants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.calibrators.grid import Grid

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.planning.plan import QuantPlan

# Beyond the range of their outputs, their inputs are cut off or flat: both may share one scale.
_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "Gelu", "Mish", "Swish"})


def implicit_scales(model: ir.Model, plan: QuantPlan, ranges: Ranges) -> dict[str, float]:
    """Returns tensor name -> scale (threshold / 127), in graph order.

    Args:
        model: The float graph that the plan was made for, without Q/DQ pairs.
        plan: The plan of the explicit route, with symmetric grids.
        ranges: The ranges it was made from.
    """
    scales = {name: grid.scale for name, grid in (*plan.tied.items(), *plan.tensors.items())}
    quantized = plan.quantized
    for node in model.graph:
        if node.name not in quantized:
            continue
        inside, result = _fused_behind(node.outputs[0])
        name = str(result.name)
        if name not in scales and name in ranges.tensors:
            scales[name] = Grid.symmetric(ranges.threshold(name)).scale
        for value in inside:
            if name in scales:
                scales.setdefault(str(value.name), _scale_inside(value, scales[name]))
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    values += model.graph.initializers.values()  # TensorRT has a layer for a constant that is joined with others
    return {str(value.name): scales[str(value.name)] for value in values if value.name in scales}


def _fused_behind(output: ir.Value) -> tuple[list[ir.Value], ir.Value]:
    """Returns the tensors that a layer and the activation behind it never write, and the one that they do."""
    readers = [use.node for use in output.uses()]
    if output.is_graph_output():
        return [], output
    if len(readers) == 1 and readers[0].op_type in _FUSED:
        return [output], readers[0].outputs[0]
    sigmoids = [node for node in readers if node.op_type == "Sigmoid"]
    products = [node for node in readers if node.op_type == "Mul"]
    if len(readers) == 2 and sigmoids and products and sigmoids[0].outputs[0] in products[0].inputs:
        return [output, sigmoids[0].outputs[0]], products[0].outputs[0]
    return [], output


def _scale_inside(value: ir.Value, scale: float) -> float:
    producer = value.producer()
    return Grid.symmetric(1.0).scale if producer is not None and producer.op_type == "Sigmoid" else scale
