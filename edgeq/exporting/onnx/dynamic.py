"""Dynamic INT8: int8 weights, and the range of every activation measured at run time.

Each chosen layer becomes DynamicQuantizeLinear -> ConvInteger or MatMulInteger -> Cast -> Mul -> Add (ONNX operator
specification, opset 11). Tensors that several layers read are quantized once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, drop_unused, new_initializer, walk
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.planning.plan import QuantPlan
    from edgeq.quantizers.weight import QuantizedWeight


@keeps_names
def insert_dynamic(model: ir.Model, plan: QuantPlan) -> None:
    """Writes a plan of `make_dynamic_plan` into the graph, in place."""
    quantized: dict[int, list[ir.Value]] = {}
    for node in walk(model):
        if (weight := plan.weights.get(str(node.name))) is not None:
            _rewrite(model, node, weight, quantized)
    drop_unused(model)


def _rewrite(model: ir.Model, node: ir.Node, weight: QuantizedWeight, quantized: dict[int, list[ir.Value]]) -> None:
    import onnx_ir as ir

    source = node.inputs[0]
    assert source is not None  # noqa: S101 - a weighted node has a data input
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        new = ir.node(op_type, inputs, attributes or None, name=f"{node.name}_{op_type}")
        new.outputs[0].name = f"{node.name}_{op_type}_output"
        nodes.append(new)
        return new.outputs[0]

    if id(source) not in quantized:
        dynamic = ir.node("DynamicQuantizeLinear", [source], num_outputs=3, name=f"{source.name}_quantize")
        for output, suffix in zip(dynamic.outputs, ("quantized", "scale", "zero_point"), strict=True):
            output.name = f"{source.name}_dynamic_{suffix}"
        nodes.append(dynamic)
        quantized[id(source)] = list(dynamic.outputs)
    integers, scale, zero_point = quantized[id(source)]
    steps = weight.integers
    if node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].as_int():
        steps = np.ascontiguousarray(steps.T)
    channel_shape = (1, -1) + (1,) * (steps.ndim - 2) if node.op_type == "Conv" else (-1,)
    operands = [
        integers,
        new_initializer(model, f"{node.name}_weight_quantized", steps),
        zero_point,
        new_initializer(model, f"{node.name}_weight_zero_point", np.zeros((), np.int8)),
    ]
    operator = "ConvInteger" if node.op_type == "Conv" else "MatMulInteger"
    accumulated = add(operator, operands)
    if node.op_type == "Conv":
        nodes[-1].attributes.update(node.attributes)
    scales = new_initializer(model, f"{node.name}_weight_scale", weight.scale.reshape(channel_shape))
    result = add("Mul", [add("Cast", [accumulated], to=ir.DataType.FLOAT), add("Mul", [scale, scales])])
    # Two multiplications of one layer need two names.
    nodes[-2].name, nodes[-2].outputs[0].name = f"{node.name}_Scale", f"{node.name}_Scale_output"
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        result = add("Add", [result, new_initializer(model, f"{node.name}_bias", bias.reshape(channel_shape))])
    old = node.outputs[0]
    result.type, result.shape, name = old.type, old.shape, old.name
    model.graph.insert_before(node, nodes)
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    result.name = name
