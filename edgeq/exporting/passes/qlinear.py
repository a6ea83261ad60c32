"""QLinear operators of ONNX and ONNX Runtime (QOperator format) as operators on real numbers.

Each rounds its result to the grid that its last inputs describe; `edgeq.exporting.passes.dequantize` notes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.integer_grid import IntegerGrid, grid_at
from edgeq.exporting.passes.real_tensors import RealTensors

if TYPE_CHECKING:
    import onnx_ir as ir

_THEIRS = ("channels_last", "opset")
"""Attributes of ONNX Runtime's operators that those on real numbers lack."""

_SOFTMAX_CHANGED = 13
"""Before this opset Softmax went over all axes from `axis` on."""

Rewrite = Callable[["ir.Model", "ir.Node", RealTensors], None]


def _replace(
    model: ir.Model,
    node: ir.Node,
    work: RealTensors,
    operator: str,
    inputs: Sequence[ir.Value],
    at: int | None,
) -> None:
    """Puts an operator on real numbers in a node's place.

    Args:
        model: The graph.
        node: The node.
        work: The tensors of real numbers.
        operator: What to put there.
        inputs: What it reads.
        at: Which input of the node is the scale of its result, with the zero point behind it; `None` for a result of
            real numbers.
    """
    import onnx_ir as ir

    if "channels_last" in node.attributes and node.attributes["channels_last"].as_int():
        raise ModelError(f"{node.op_type} {node.name!r} has its channels last; give the float model")
    ours = {name: attribute for name, attribute in node.attributes.items() if name not in _THEIRS}
    new = ir.node(operator, inputs, name=node.name)
    new.attributes.update(ours)
    model.graph.insert_before(node, new)
    output, result = node.outputs[0], new.outputs[0]
    result.shape, result.type = output.shape, inputs[0].type
    if at is None:
        result.type, result.name = output.type, output.name
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        return
    result.name, grid = f"{output.name}_real", grid_at(node, at, at + 1)
    work.stands_for(output, result, grid, node)
    if output.is_graph_output():
        _round(node, work.real(node, output, grid, ""), at)


def _round(node: ir.Node, real: ir.Value, at: int) -> None:
    """Makes a node the QuantizeLinear of an output of integers."""
    scale, zero = node.inputs[at : at + 2]
    node.op_type, node.domain = "QuantizeLinear", ""
    node.attributes.clear()
    node.resize_inputs(3)
    for position, value in enumerate((real, scale, zero)):
        node.replace_input_with(position, value)


def _operand(node: ir.Node, work: RealTensors, first: int, axis: int | None = None) -> tuple[ir.Value, IntegerGrid]:
    """Returns the real numbers of the operand that three inputs describe, and its grid."""
    value = node.inputs[first]
    assert value is not None  # noqa: S101 - required by the operator
    dtype = None if value.dtype is None else value.dtype.numpy()
    grid = grid_at(node, first + 1, first + 2, dtype)
    if axis is not None:
        grid = IntegerGrid(grid.scale, np.broadcast_to(grid.zero_point, grid.scale.shape), axis)
    return work.real(node, value, grid, f"{value.name}_real"), grid


def _bias(node: ir.Node, work: RealTensors, position: int, factors: Sequence[IntegerGrid]) -> list[ir.Value]:
    """Returns the bias in real numbers; its step is the product of the operands' steps."""
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None:
        return []
    integers = constant(value)
    if integers is None:
        raise ModelError(f"{node.op_type} {node.name!r} has a bias that is computed; give the float model")
    scale = factors[0].scale.reshape(-1).astype(np.float64) * factors[1].scale.reshape(-1)
    real = (integers * (scale if integers.ndim < 2 else scale.reshape(1, -1))).astype(factors[0].scale.dtype)
    return [work.constant(real, f"{value.name}_real", None)]


def _conv(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    source, first = _operand(node, work, 0)
    weight, second = _operand(node, work, 3, axis=0)
    bias = _bias(node, work, 8, (first, second))
    _replace(model, node, work, "Conv", [source, weight, *bias], 6)


def _matmul(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    left, right = _operand(node, work, 0)[0], _operand(node, work, 3, axis=-1)[0]
    _replace(model, node, work, "MatMul", [left, right], 6)


def _gemm(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
    left, first = _operand(node, work, 0)
    right, second = _operand(node, work, 3, axis=0 if transposed else 1)
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 1.0
    scaled = IntegerGrid(first.scale * first.scale.dtype.type(alpha), first.zero_point)
    bias = _bias(node, work, 6, (scaled, second))
    rounded = len(node.inputs) > 7 and node.inputs[7] is not None
    _replace(model, node, work, "Gemm", [left, right, *bias], 7 if rounded else None)


def _binary(operator: str) -> Rewrite:
    def rewrite(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
        operands = [_operand(node, work, first)[0] for first in (0, 3)]
        _replace(model, node, work, operator, operands, 6)

    return rewrite


def _unary(operator: str) -> Rewrite:
    def rewrite(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
        _replace(model, node, work, operator, [_operand(node, work, 0)[0]], 3)

    return rewrite


def _softmax(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    opset = node.attributes["opset"].as_int() if "opset" in node.attributes else _SOFTMAX_CHANGED
    shape = node.outputs[0].shape
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
    if opset < _SOFTMAX_CHANGED and (shape is None or axis % len(shape) != len(shape) - 1):
        raise ModelError(f"{node.op_type} {node.name!r} goes over several axes; give the float model")
    _unary("Softmax")(model, node, work)


def _concat(model: ir.Model, node: ir.Node, work: RealTensors) -> None:
    operands = [_operand(node, work, first)[0] for first in range(2, len(node.inputs), 3)]
    _replace(model, node, work, "Concat", operands, 0)


OPERATORS: Mapping[str, Rewrite] = MappingProxyType(
    {
        "QGemm": _gemm,
        "QLinearAdd": _binary("Add"),
        "QLinearAveragePool": _unary("AveragePool"),
        "QLinearConcat": _concat,
        "QLinearConv": _conv,
        "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
        "QLinearLeakyRelu": _unary("LeakyRelu"),
        "QLinearMatMul": _matmul,
        "QLinearMul": _binary("Mul"),
        "QLinearSigmoid": _unary("Sigmoid"),
        "QLinearSoftmax": _softmax,
    }
)
"""Operator -> what puts one on real numbers in its place."""
