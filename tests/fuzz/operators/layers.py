"""Layers with weights, normalisations, pools and recurrent cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.table import maker


def scaled(b: Builder, *shape: int, fan_in: int) -> np.ndarray:
    """Returns weights that keep the magnitude of what they are multiplied with; channels differ in size."""
    numbers = b.numbers(*shape) / math.sqrt(fan_in)
    if b.chance(15):
        numbers[0] *= b.pick([0.0, 1e-3, 30.0])
    return numbers


def as_rank(b: Builder, x: Value, rank: int) -> Value:
    """Returns a tensor with its elements in another number of axes."""
    if x.rank == rank:
        return x
    b.require(x.rank > 0)
    first = 0 if b.free_batch else x.shape[0]
    rest = list(x.shape[1:])
    while len(rest) < rank - 1:
        rest.append(1)
    merged = [*rest[: rank - 2], math.prod(rest[rank - 2 :])] if rank > 1 else []
    if rank == 1:
        b.require(not b.free_batch)
        return b.node("Reshape", [x, b.constant(np.array([-1]))])
    return b.node("Reshape", [x, b.constant(np.array([first, *merged]))], shape=[x.shape[0], *merged])


def window(b: Builder, x: Value, *, most: int = 3) -> dict[str, Any]:
    """Returns the attributes of a window over the spatial axes that fits."""
    spatial = x.shape[2:]
    size = [min(b.pick([3, 1, 2][: most + 1]), side) for side in spatial]
    stride = b.pick([1, 2])
    found: dict[str, Any] = {"kernel_shape": size, "strides": [stride] * len(spatial)}
    # Steps over pixels that no window reads come to negative padding, which ONNX Runtime does not take.
    same = ["SAME_UPPER", "SAME_LOWER"] if stride <= min(size) else []
    padding = b.pick(["explicit", "none", *same, "VALID", "uneven"])
    if padding == "explicit":
        found["pads"] = [side // 2 for side in size] * 2
    elif padding == "uneven":
        found["pads"] = [0] * len(size) + [side // 2 for side in size]
    elif padding != "none":
        found["auto_pad"] = padding
    return found


@maker("Conv", weight=30)
def conv(b: Builder, x: Value) -> Value:
    x = as_rank(b, x, 4) if x.rank < 3 else x
    b.require(x.rank in (3, 4, 5))
    channels = x.shape[1]
    groups = b.pick([1, channels, *(each for each in (2, 3) if channels % each == 0)]) if b.chance(40) else 1
    outputs = groups * b.pick([4, 1, 2, 3]) if groups > 1 else b.pick([4, 8, 1, 3, 6])
    given = window(b, x)
    if "auto_pad" not in given and b.chance(20) and min(x.shape[2:]) >= 5:
        given |= {"dilations": [2] * (x.rank - 2), "pads": [2] * 2 * (x.rank - 2)}
    if b.chance(30):
        given.pop("strides")
    shape = (outputs, channels // groups, *given["kernel_shape"])
    if b.chance(30):
        given.pop("kernel_shape")
    weight = b.shared(scaled(b, *shape, fan_in=math.prod(shape[1:])))
    bias = b.shared(b.numbers(outputs)) if b.chance(60) else None
    return b.node("Conv", [x, weight, bias], group=groups if groups > 1 else None, **given)


@maker("ConvTranspose", weight=6)
def conv_transpose(b: Builder, x: Value) -> Value:
    x = as_rank(b, x, 4) if x.rank < 3 else x
    b.require(x.rank in (3, 4) and math.prod(x.shape[2:]) <= 100)
    spatial, channels = x.rank - 2, x.shape[1]
    groups = b.pick([1, channels]) if b.chance(25) else 1
    size, stride, pad = b.pick([(4, 2, 1), (2, 2, 0), (3, 2, 1), (3, 1, 1), (4, 2, 0)])
    given: dict[str, Any] = {
        "kernel_shape": [size] * spatial,
        "strides": [stride] * spatial,
        "pads": [pad] * 2 * spatial,
    }
    if size == 3 and stride == 2 and b.chance(50):
        given["output_padding"] = [1] * spatial
    per_group = b.pick([4, 1, 3]) if groups == 1 else b.pick([1, 2])
    weight = b.shared(scaled(b, channels, per_group, *[size] * spatial, fan_in=channels // groups * 4))
    bias = b.shared(b.numbers(per_group * groups)) if b.chance(50) else None
    return b.node("ConvTranspose", [x, weight, bias], group=groups if groups > 1 else None, **given)


@maker("Gemm", weight=12)
def gemm(b: Builder, x: Value) -> Value:
    x = as_rank(b, x, 2) if x.rank != 2 else x
    width, outputs = x.shape[1], b.pick([5, 8, 1, 10])
    transposed = b.chance(50)
    weight = b.shared(scaled(b, *((outputs, width) if transposed else (width, outputs)), fan_in=width))
    shape = b.pick([(outputs,), (1, outputs), (1,), (1, 1), ()]) if b.chance(70) else None
    bias = None if shape is None else b.shared(b.numbers(*shape))
    b.require(bias is not None or b.opset >= 11)
    given: dict[str, Any] = {"transB": 1} if transposed else {}
    if b.chance(25):
        given |= {"alpha": b.pick([0.5, 1.0, 2.0]), "beta": b.pick([0.5, 1.0])}
    if b.chance(10) and not b.free_batch:
        x, given["transA"] = b.node("Transpose", [x], perm=[1, 0]), 1
    return b.node("Gemm", [x, weight, bias], **given)


@maker("MatMul", weight=14)
def matmul(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 2)
    width, outputs = x.shape[-1], b.pick([6, 4, 1])
    stack = (x.shape[1],) if x.rank == 4 and b.chance(20) else ()
    shape = b.pick([(*stack, width, outputs), (width,)]) if b.chance(10) else (*stack, width, outputs)
    weight = b.shared(scaled(b, *shape, fan_in=width))
    if b.chance(10) and len(shape) == 2 and x.rank > 2:
        left = b.shared(scaled(b, outputs, x.shape[-2], fan_in=x.shape[-2]))
        return b.node("MatMul", [left, x])
    product = b.node("MatMul", [x, weight])
    if b.chance(50) and len(shape) > 1:
        bias = b.shared(b.numbers(outputs))
        product = b.node("Add", [product, bias] if b.chance(70) else [bias, product])
    return product


@maker("product of activations", weight=4)
def product(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3 and x.shape[-1] <= 64)
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    turned = b.node("Transpose", [x], perm=order)
    scale = b.constant(np.float32(1 / math.sqrt(x.shape[-1])))
    return b.node("Mul", [b.node("MatMul", [x, turned]), scale])


@maker("Einsum", weight=2)
def einsum(b: Builder, x: Value) -> Value:
    if x.rank == 4 and b.chance(50):
        weight = b.constant(scaled(b, x.shape[1], 5, fan_in=x.shape[1]), plain=False)
        return b.node("Einsum", [x, weight], equation="nchw,cd->ndhw")
    b.require(x.rank >= 2)
    x = as_rank(b, x, 3)
    weight = b.constant(scaled(b, x.shape[2], 5, fan_in=x.shape[2]), plain=False)
    return b.node("Einsum", [x, weight], equation="ntc,cd->ntd")


@maker("BatchNormalization", weight=10)
def batch_norm(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 2)
    size = x.shape[1]
    numbers = [b.shared(each) for each in (b.positive(size), b.numbers(size), b.numbers(size))]
    return b.node("BatchNormalization", [x, *numbers, b.constant(b.positive(size))], epsilon=b.pick([None, 1e-3]))


@maker("InstanceNormalization", weight=2)
def instance_norm(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3 and math.prod(x.shape[2:]) >= 8)
    scale, bias = b.shared(b.positive(x.shape[1])), b.shared(b.numbers(x.shape[1]))
    return b.node("InstanceNormalization", [x, scale, bias], epsilon=b.pick([None, 1e-3]))


@maker("GroupNormalization", weight=3)
def group_norm(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3 and math.prod(x.shape[2:]) >= 8)
    b.since(21)
    groups = b.pick([each for each in (1, 2, 3, x.shape[1]) if x.shape[1] % each == 0])
    scale, bias = b.shared(b.positive(x.shape[1])), b.shared(b.numbers(x.shape[1]))
    return b.node(
        "GroupNormalization", [x, scale, bias], num_groups=groups, epsilon=b.pick([None, 1e-3]), shape=x.shape
    )


@maker("LayerNormalization", "RMSNormalization", weight=4)
def layer_norm(b: Builder, x: Value, operator: str) -> Value:
    b.require(x.rank >= 2)
    axis = b.integer(1, x.rank - 1)
    shape = x.shape[axis:]
    b.require(math.prod(shape) >= 4)
    if operator == "LayerNormalization" and b.chance(70):
        operands = [b.shared(b.positive(*shape)), b.shared(b.numbers(*shape))]
    else:
        operands = [b.shared(b.positive(*shape))]
    return b.node(operator, [x, *operands], axis=b.spelled(axis, x.rank), epsilon=b.pick([None, 1e-3]))


@maker("LRN")
def lrn(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4)
    return b.node("LRN", [x], size=b.pick([3, 5]), alpha=b.pick([None, 0.1]), bias=b.pick([None, 2.0]))


@maker("LpNormalization")
def lp_normalization(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    b.require(x.shape[axis] > 1)
    return b.node("LpNormalization", [x], axis=b.spelled(axis, x.rank), p=b.pick([2, 1]))


@maker("MeanVarianceNormalization")
def mean_variance(b: Builder, x: Value) -> Value:
    b.since(9)
    b.require(x.rank == 4 and math.prod(x.shape[2:]) >= 8)
    return b.node("MeanVarianceNormalization", [x], axes=[2, 3], shape=x.shape)


@maker("Softmax", "LogSoftmax", weight=4)
@maker("Hardmax", weight=1, jumps=True)
def softmax(b: Builder, x: Value, operator: str = "Hardmax") -> Value:
    if b.opset < 13 and b.chance(30):
        return b.node(operator, [x])
    axis = b.axis(x)
    return b.node(operator, [x], axis=axis if b.opset < 11 else b.spelled(axis, x.rank))


@maker("MaxPool", "AveragePool", weight=6)
def pool(b: Builder, x: Value, operator: str) -> Value:
    b.require(x.rank in (3, 4) and min(x.shape[2:]) >= 2)
    given = window(b, x)
    sizes = given["kernel_shape"] * 2
    if "pads" in given and any(2 * pad >= size for pad, size in zip(given["pads"], sizes, strict=True)):
        given["pads"] = [0] * len(given["pads"])
    # Until opset 22 inference counts windows that begin behind the last pixel; engines do not.
    is_counted = b.opset >= 22 or max(given["strides"]) <= min(sizes)
    if b.opset >= 10 and b.chance(25) and "auto_pad" not in given and is_counted:
        given["ceil_mode"] = 1
    if operator == "AveragePool" and b.opset >= 7 and b.chance(40):
        given["count_include_pad"] = 1
    return b.node(operator, [x], **given)


@maker("LpPool")
def lp_pool(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and min(x.shape[2:]) >= 2)
    return b.node("LpPool", [x], kernel_shape=[2, 2], p=b.pick([2, 1]))


@maker("GlobalAveragePool", "GlobalMaxPool", weight=3)
@maker("GlobalLpPool", weight=1)
def global_pool(b: Builder, x: Value, operator: str = "GlobalLpPool") -> Value:
    b.require(x.rank in (3, 4))
    return b.node(operator, [x])


@maker("MaxUnpool", jumps=True)
def max_unpool(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and min(x.shape[2:]) >= 2 and not any(side % 2 for side in x.shape[2:]))
    b.since(8)
    pooled, indices = b.many("MaxPool", [x], 2, kernel_shape=[2, 2], strides=[2, 2])
    return b.node("MaxUnpool", [pooled, indices], kernel_shape=[2, 2], strides=[2, 2], shape=x.shape)


@maker("LSTM", "GRU", "RNN")
def recurrent(b: Builder, x: Value, operator: str) -> Value:
    b.require(x.rank >= 2)
    x = as_rank(b, x, 3)
    sequence = b.node("Transpose", [x], perm=[1, 0, 2])
    hidden, gates = 4, {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]
    directions = b.pick([1, 2])
    weight = b.constant(scaled(b, directions, gates * hidden, x.shape[2], fan_in=x.shape[2]), plain=False)
    recurrence = b.constant(scaled(b, directions, gates * hidden, hidden, fan_in=hidden), plain=False)
    bias = b.constant(b.numbers(directions, 2 * gates * hidden) / 4) if b.chance(50) else None
    given: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" and b.chance(40) else {}
    direction = "bidirectional" if directions == 2 else b.pick(["forward", "reverse"])
    outputs = b.many(
        operator, [sequence, weight, recurrence, bias], 2, hidden_size=hidden, direction=direction, **given
    )
    # The sequence (T, D, N, H) or the last state (D, N, H), with the images first.
    if b.chance(70):
        return b.node("Transpose", [outputs[0]], perm=[2, 0, 1, 3])
    return b.node("Transpose", [outputs[1]], perm=[1, 0, 2])


@maker("Attention")
def attention(b: Builder, x: Value) -> Value:
    b.since(23)
    b.require(x.rank >= 3)
    x = as_rank(b, x, 3)
    parts = [b.node("MatMul", [x, b.constant(scaled(b, x.shape[2], 8, fan_in=x.shape[2]))]) for _ in range(3)]
    return b.many("Attention", parts, 1, q_num_heads=2, kv_num_heads=2)[0]


@maker("DeformConv")
def deform_conv(b: Builder, x: Value) -> Value:
    b.since(19)
    b.require(x.rank == 4 and min(x.shape[2:]) >= 3)
    channels = x.shape[1]
    offsets = b.node("Conv", [x, b.constant(scaled(b, 18, channels, 3, 3, fan_in=9 * channels))], pads=[1] * 4)
    weight = b.constant(scaled(b, 4, channels, 3, 3, fan_in=9 * channels))
    return b.node(
        "DeformConv", [x, weight, offsets], kernel_shape=[3, 3], pads=[1] * 4, shape=[x.shape[0], 4, *x.shape[2:]]
    )
