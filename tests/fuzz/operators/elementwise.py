"""Operators that compute each element by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.table import maker

FLOAT16_SAFE = 3.0


@maker("Relu", "Sigmoid", "Tanh", weight=4)
@maker("HardSwish", "Softplus", "Softsign", "Erf", "Mish", "Abs", "Neg", "Sin", "Cos", "Atan", "Asinh", weight=1)
def plain(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [x])


@maker("Floor", "Ceil", "Round", "Sign", jumps=True)
def steps(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [x])


@maker("Exp", "Sinh", "Cosh", "Tan")
def bounded_before(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [b.node("Tanh", [x])])


@maker("Acos", "Asin", "Atanh")
def within_one(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [b.node("Mul", [b.node("Tanh", [x]), b.constant(np.float32(0.9))])])


@maker("Log", "Sqrt", "Reciprocal", "Acosh", weight=2)
def above_zero(b: Builder, x: Value, operator: str) -> Value:
    least = np.float32(1.5 if operator == "Acosh" else 0.5)
    return b.node(operator, [b.node("Add", [b.node("Abs", [x]), b.constant(least)])])


@maker("LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "HardSigmoid")
def with_alpha(b: Builder, x: Value, operator: str) -> Value:
    if operator == "ThresholdedRelu":
        return b.node(operator, [x], alpha=b.pick([None, 0.5]))
    beta = {"HardSigmoid": "beta", "Selu": "gamma"}.get(operator)
    further: dict[str, Any] = {} if beta is None else {beta: b.pick([None, 0.4])}
    return b.node(operator, [x], alpha=b.pick([None, 0.2]), **further)


@maker("Shrink", jumps=True)
def shrink(b: Builder, x: Value) -> Value:
    return b.node("Shrink", [x], lambd=b.pick([None, 0.3]), bias=b.pick([None, 0.3]))


@maker("Gelu")
def gelu(b: Builder, x: Value) -> Value:
    return b.node("Gelu", [x], approximate=b.pick([None, "tanh"]))


@maker("Swish")
def swish(b: Builder, x: Value) -> Value:
    return b.node("Swish", [x], alpha=b.pick([None, 1.5]))


@maker("Clip", weight=3)
def clip(b: Builder, x: Value) -> Value:
    low, high = b.pick([(0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 2.0), (None, None)])
    if b.opset < 11:
        return b.node("Clip", [x], min=low, max=high)
    ends = [None if end is None else b.constant(np.float32(end)) for end in (low, high)]
    return b.node("Clip", [x, *ends])


@maker("PRelu", weight=2)
def prelu(b: Builder, x: Value) -> Value:
    b.require(x.rank > 1)
    shape = b.pick([(x.shape[1],) + (1,) * (x.rank - 2), (1,)])
    return b.node("PRelu", [x, b.shared(b.positive(*shape) / 4)])


@maker("Identity")
def identity(b: Builder, x: Value) -> Value:
    return b.node("Identity", [x])


@maker("Dropout")
def dropout(b: Builder, x: Value) -> Value:
    if b.opset < 12:
        # Files of that age do not say what the mask of a trained model is.
        return b.node("Dropout", [x], ratio=0.4)
    ratio = b.constant(np.float32(0.4)) if b.chance(50) else None
    training = b.constant(np.array(False)) if b.chance(30) else None
    return b.many("Dropout", [x, ratio, training], b.pick([1, 2]))[0]


@maker("Cast", weight=2)
def cast(b: Builder, x: Value) -> Value:
    to = b.pick([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
    b.require(to != TensorProto.FLOAT16 or b.opset >= 9)
    narrowed = b.node("Cast", [x], to=to)
    return narrowed if to == TensorProto.FLOAT else b.node("Cast", [narrowed], to=TensorProto.FLOAT)


@maker("CastLike")
def cast_like(b: Builder, x: Value) -> Value:
    return b.node("CastLike", [x, b.constant(np.zeros(1, np.float32))])


@maker("Add", "Mul", "Sub", "Max", "Min", weight=6)
@maker("Sum", "Mean", weight=1)
def binary(b: Builder, x: Value, operator: str) -> Value:
    other = second(b, x)
    operands = [x, other] if b.chance(70) else [other, x]
    if operator in ("Sum", "Mean", "Max", "Min") and b.chance(30):
        operands.append(x)
    return b.node(operator, operands)


def second(b: Builder, x: Value) -> Value:
    """Returns a second operand that can be added: another tensor of that shape, or a constant to broadcast."""
    same = [each for each in b.computed if each.shape == x.shape and each.is_float and each.array is None]
    if same and b.chance(60):
        return b.pick(same)
    if not x.rank:
        return b.shared(b.numbers())
    channels = [1] * x.rank
    if x.rank > 1:
        channels[1] = x.shape[1]
    last = [x.shape[-1]] if x.rank > 1 or not b.free_batch else [1]
    shape = b.pick([tuple(channels), (), tuple(last), (1, *x.shape[1:]), (1,)])
    return b.shared(b.numbers(*shape))


@maker("Div", weight=4)
def div(b: Builder, x: Value) -> Value:
    other = second(b, x)
    if other.array is None:
        other = b.node("Add", [b.node("Abs", [other]), b.constant(np.float32(0.7))])
    else:
        other = b.constant(b.positive(*other.shape), plain=False)
    return b.node("Div", [x, other])


@maker("Pow", weight=3)
def power(b: Builder, x: Value) -> Value:
    exponent = b.pick([2.0, 3.0, 0.5, -1.0])
    if exponent in (0.5, -1.0):
        x = b.node("Add", [b.node("Abs", [x]), b.constant(np.float32(0.5))])
    number = np.int64(exponent) if b.opset >= 12 and exponent in (2.0, 3.0) and b.chance(30) else np.float32(exponent)
    return b.node("Pow", [x, b.constant(number)])


@maker("Mod", jumps=True)
def mod(b: Builder, x: Value) -> Value:
    return b.node("Mod", [x, b.constant(np.float32(1.5))], fmod=1)


@maker("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", jumps=True)
def compare(b: Builder, x: Value, operator: str) -> Value:
    b.require(operator != "Equal" or b.opset >= 11)
    b.require(operator not in ("Greater", "Less") or b.opset >= 7)
    return b.node(operator, [x, second(b, x)])


@maker("IsNaN", "IsInf", jumps=True)
def is_odd(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [x])


@maker("Not", takes="bool")
def invert(b: Builder, x: Value) -> Value:
    return b.node("Not", [x])


@maker("And", "Or", "Xor", takes="bool")
def logic(b: Builder, x: Value, operator: str) -> Value:
    return b.node(operator, [x, b.node("Not", [x]) if b.chance(50) else b.constant(np.array(True))])


@maker("Where", weight=8, takes="bool")
def where(b: Builder, x: Value) -> Value:
    same = [each for each in b.computed if each.shape == x.shape and each.is_float]
    chosen = b.pick(same) if same else b.constant(np.float32(1))
    other = b.constant(np.float32(b.pick([0.0, -1.0, 2.5])))
    return b.node("Where", [x, chosen, other] if b.chance(50) else [x, other, chosen])


@maker("cast of a bool", weight=4, takes="bool")
def cast_bool(b: Builder, x: Value) -> Value:
    return b.node("Cast", [x], to=TensorProto.FLOAT)


@maker("cast of an integer", weight=6, takes="integer")
def cast_integer(b: Builder, x: Value) -> Value:
    return b.node("Mul", [b.node("Cast", [x], to=TensorProto.FLOAT), b.constant(np.float32(0.1))])


@maker("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", takes="integer")
def bits(b: Builder, x: Value, operator: str) -> Value:
    unsigned = b.node("Cast", [x], to=TensorProto.UINT8)
    other = b.constant(np.uint8(3))
    if operator == "BitwiseNot":
        found = b.node(operator, [unsigned])
    elif operator == "BitShift":
        found = b.node(operator, [unsigned, other], direction=b.pick(["RIGHT", "LEFT"]))
    else:
        found = b.node(operator, [unsigned, other])
    return b.node("Cast", [found], to=TensorProto.INT64)
