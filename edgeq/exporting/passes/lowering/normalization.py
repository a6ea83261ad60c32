"""GroupNormalization and RMSNormalization. Exact up to float rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, dims, shape_for_reshape

if TYPE_CHECKING:
    import onnx_ir as ir

_EPSILON = 1e-5


def _by_channels(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Wu and He, 2018: an InstanceNormalization of the groups, then a scale and a shift per channel."""
    source, gamma, beta = node.inputs
    groups = attribute(node, "num_groups")
    normed = _instances(node, make, np.ones(groups, np.float32), np.zeros(groups, np.float32))
    shape = dims(source)
    if shape is None:  # a row for each channel has a rank
        count = make("Shape", gamma)
        rows = make("Reshape", normed, make("Concat", make.ints(0), count, make.ints(-1), axis=0))
        column = make.ints(-1, 1)
        scaled = make("Mul", rows, make("Reshape", gamma, column))
        shifted = make("Add", scaled, make("Reshape", beta, column))
        return make("Reshape", shifted, make("Shape", source))
    column = make.ints(-1, *[1] * (len(shape) - 2))
    scaled = make("Mul", normed, make("Reshape", gamma, column))
    return make("Add", scaled, make("Reshape", beta, column))


def group_norm_by_groups(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Returns the GroupNormalization of opset 18, whose scale and shift are those of the groups, as other operators."""
    return _instances(node, make, *node.inputs[1:])


def _instances(
    node: ir.Node, make: NodeBuilder, gamma: ir.Value | np.ndarray | None, beta: ir.Value | np.ndarray | None
) -> ir.Value:
    source = _in_float(node, make)
    rows = make("Reshape", source, make.ints(0, attribute(node, "num_groups"), -1))
    normed = make("InstanceNormalization", rows, gamma, beta, epsilon=attribute(node, "epsilon", _EPSILON))
    return _as_before(node, make, make("Reshape", normed, shape_for_reshape(node.inputs[0], make)))


def _root_mean_square(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Zhang and Sennrich, 2019."""
    axis, shape = attribute(node, "axis", -1), dims(node.inputs[0])
    if axis >= 0 and shape is None:
        make.refuse("has an input of unknown rank, and opsets below 23 need it; fix the input's shape")
    source = _in_float(node, make)
    axes = range(axis, 0) if shape is None else range(axis % len(shape) - len(shape), 0)
    mean = make("ReduceMean", make("Mul", source, source), make.ints(*axes), keepdims=1)
    spread = make("Sqrt", make("Add", mean, make.like(source, attribute(node, "epsilon", _EPSILON))))
    return make("Mul", _as_before(node, make, make("Div", source, spread)), node.inputs[1])


def _in_float(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    """Returns the input in the type that the statistics are computed in."""
    import onnx_ir as ir

    source = node.inputs[0]
    if source is None or source.dtype in (None, ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return source
    if attribute(node, "stash_type", 1) != int(ir.DataType.FLOAT):
        return source
    wide = make("Cast", source, to=int(ir.DataType.FLOAT))
    wide.type = ir.TensorType(ir.DataType.FLOAT)
    return wide


def _as_before(node: ir.Node, make: NodeBuilder, value: ir.Value) -> ir.Value:
    """Returns a value in the type of the node's input."""
    import onnx_ir as ir

    source = node.inputs[0]
    if source is None or source.dtype in (None, ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return value
    return make("Cast", value, to=int(source.dtype))


NORMALIZATION: dict[tuple[str, int], Rule] = {
    ("GroupNormalization", 18): group_norm_by_groups,
    ("GroupNormalization", 21): _by_channels,
    ("RMSNormalization", 23): _root_mean_square,
}
