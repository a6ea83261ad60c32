"""Softmax, LogSoftmax and Hardmax: before opset 13 over all axes from `axis` on, since over that one alone. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, dims, set_attribute, shape_for_reshape

if TYPE_CHECKING:
    import onnx_ir as ir


def _over_one_axis(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    source, axis = node.inputs[0], attribute(node, "axis", 1)
    shape = dims(source)
    if shape is not None:
        axis = axis + len(shape) if axis < 0 else axis
        if axis < len(shape) and all(length == 1 for length in shape[axis + 1 :]):
            set_attribute(node, "axis", axis)
            return None
    flat = make(node.op_type, make("Flatten", source, axis=axis), axis=-1)
    return make("Reshape", flat, shape_for_reshape(source, make))


AXES: dict[tuple[str, int], Rule] = dict.fromkeys(
    (("Softmax", 13), ("LogSoftmax", 13), ("Hardmax", 13)), _over_one_axis
)
