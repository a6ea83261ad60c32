"""Several operators as models have them: blocks, hand-written functions, arithmetic of shapes, odd weights."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.layers import as_rank, conv, scaled
from tests.fuzz.operators.moves import ints
from tests.fuzz.operators.reductions import reduce
from tests.fuzz.operators.table import maker


def plain_conv(b: Builder, x: Value, outputs: int, size: int = 3) -> Value:
    """Returns a convolution that keeps the spatial size."""
    weight = b.shared(scaled(b, outputs, x.shape[1], size, size, fan_in=x.shape[1] * size * size))
    return b.node("Conv", [x, weight, b.shared(b.numbers(outputs))], pads=[size // 2] * 4)


@maker("residual block", weight=14)
def residual(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4)
    first = b.node("Relu", [plain_conv(b, x, b.pick([x.shape[1], 8]))])
    y = plain_conv(b, first, x.shape[1])
    if b.chance(30):
        x = plain_conv(b, x, x.shape[1], 1)
    total = b.node("Add", [x, y] if b.chance(50) else [y, x])
    return b.node("Relu", [total]) if b.chance(60) else total


@maker("convolution and activation", weight=20)
def activated(b: Builder, x: Value) -> Value:
    y = conv(b, x)
    kind = b.pick(["Relu", "SiLU", "Clip", "Sigmoid", "LeakyRelu", "HardSwish by hand"])
    if kind == "SiLU":
        return b.node("Mul", [y, b.node("Sigmoid", [y])])
    if kind == "HardSwish by hand":
        shifted = b.node("Add", [y, b.constant(np.float32(3))])
        ends = [b.constant(np.float32(end)) for end in (0, 6)]
        cut = b.node("Clip", [shifted, *ends]) if b.opset >= 11 else b.node("Clip", [shifted], min=0.0, max=6.0)
        return b.node("Div", [b.node("Mul", [y, cut]), b.constant(np.float32(6))])
    if kind == "Clip":
        ends = [b.constant(np.float32(end)) for end in (0, 6)]
        return b.node("Clip", [y, *ends]) if b.opset >= 11 else b.node("Clip", [y], min=0.0, max=6.0)
    return b.node(kind, [y])


@maker("squeeze and excitation", weight=4)
def squeeze_excite(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4)
    pooled = b.node("GlobalAveragePool", [x])
    hidden = b.node("Relu", [plain_conv(b, pooled, 4, 1)])
    return b.node("Mul", [x, b.node("Sigmoid", [plain_conv(b, hidden, x.shape[1], 1)])])


@maker("attention by hand", weight=5)
def attention_by_hand(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3)
    tokens = as_rank(b, x, 3)
    b.require(tokens.shape[1] <= 64)
    width, heads = 8, b.pick([1, 2])
    parts = []
    for _ in range(3):
        part = b.node("MatMul", [tokens, b.shared(scaled(b, tokens.shape[2], width, fan_in=tokens.shape[2]))])
        part = b.node("Add", [part, b.shared(b.numbers(width) / 4)])
        shape = [tokens.shape[1], heads, width // heads]
        split = b.node("Reshape", [part, ints(b, 0, *shape)], shape=[tokens.shape[0], *shape])
        parts.append(b.node("Transpose", [split], perm=[0, 2, 1, 3]))
    turned = b.node("Transpose", [parts[1]], perm=[0, 1, 3, 2])
    logits = b.node("MatMul", [parts[0], turned])
    logits = b.node("Div", [logits, b.constant(np.float32(math.sqrt(width / heads)))])
    if b.chance(40):
        length = tokens.shape[1]
        mask = np.where(np.tri(length, dtype=bool), 0, b.pick([-1e9, -np.inf, -65504.0])).astype(np.float32)
        logits = b.node("Add", [logits, b.constant(mask[None, None])])
    weights = b.node("Softmax", [logits], axis=-1 if b.opset >= 11 else 3)
    context = b.node("Transpose", [b.node("MatMul", [weights, parts[2]])], perm=[0, 2, 1, 3])
    joined = b.node("Reshape", [context, ints(b, 0, tokens.shape[1], width)], shape=[*tokens.shape[:2], width])
    return b.node("MatMul", [joined, b.shared(scaled(b, width, tokens.shape[2], fan_in=width))])


@maker("GELU by hand", weight=3)
def gelu_by_hand(b: Builder, x: Value) -> Value:
    scaled_x = b.node("Div", [x, b.constant(np.float32(math.sqrt(2)))])
    inner = b.node("Erf", [scaled_x]) if b.opset >= 9 and b.chance(60) else b.node("Tanh", [scaled_x])
    grown = b.node("Add", [inner, b.constant(np.float32(1))])
    half = b.constant(np.float32(0.5))
    if b.chance(50):
        return b.node("Mul", [b.node("Mul", [x, grown]), half])
    return b.node("Mul", [b.node("Mul", [x, half]), grown])


@maker("LayerNorm by hand", weight=3)
def layer_norm_by_hand(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 2 and x.shape[-1] >= 4)

    def mean(value: Value) -> Value:
        if b.opset >= 18:
            return b.node("ReduceMean", [value, ints(b, -1)])
        return b.node("ReduceMean", [value], axes=[value.rank - 1])

    centred = b.node("Sub", [x, mean(x)])
    squared = b.node("Pow", [centred, b.constant(np.float32(2))])
    variance = b.node("Add", [mean(squared), b.constant(np.float32(1e-3))])
    normal = b.node("Div", [centred, b.node("Sqrt", [variance])])
    grown = b.node("Mul", [normal, b.shared(b.positive(x.shape[-1]))])
    return b.node("Add", [grown, b.shared(b.numbers(x.shape[-1]))])


@maker("computed weight", weight=5)
def computed_weight(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4)
    weight = scaled(b, 4, x.shape[1], 3, 3, fan_in=9 * x.shape[1])
    form = b.pick(["normalised", "dequantized", "half", "transposed", "product"])
    if form == "normalised":
        raw = b.constant(weight)
        squares = b.node("Mul", [raw, raw])
        if b.opset >= 13:
            total = b.node("ReduceSum", [squares, ints(b, 1, 2, 3)], keepdims=1)
        else:
            total = b.node("ReduceSum", [squares], axes=[1, 2, 3], keepdims=1)
        found = b.node("Div", [raw, b.node("Sqrt", [total])])
    elif form == "dequantized":
        b.since(10)
        scale = np.float32(np.abs(weight).max() / 127)
        steps = np.rint(weight / scale).astype(np.int8)
        found = b.node("DequantizeLinear", [b.constant(steps), b.constant(scale), b.constant(np.int8(0))])
    elif form == "half":
        found = b.node("Cast", [b.constant(weight.astype(np.float16))], to=TensorProto.FLOAT)
    elif form == "transposed":
        found = b.node("Transpose", [b.constant(weight.transpose(2, 3, 1, 0))], perm=[3, 2, 0, 1])
    else:
        found = b.node("Mul", [b.constant(weight), b.constant(b.positive(4, 1, 1, 1))])
    for each in b.computed[::-1]:
        if each.name == found.name or (each.shape in ((4, 1, 1, 1), weight.shape) and each.name in b.read):
            b.computed.remove(each)
    return b.node("Conv", [x, found], pads=[1, 1, 1, 1])


@maker("channel shuffle", weight=4)
def channel_shuffle(b: Builder, x: Value) -> Value:
    """The sizes are computed from the tensor's own shape, as exporters of PyTorch write `view`."""
    b.require(x.rank == 4 and x.shape[1] % 2 == 0)
    shape = b.node("Shape", [x])
    sizes = [_size(b, shape, axis) for axis in range(4)]
    half = b.node("Div", [sizes[1], ints(b, 2)]) if b.chance(50) else ints(b, x.shape[1] // 2)
    split_shape = b.node("Concat", [sizes[0], ints(b, 2), half, sizes[2], sizes[3]], axis=0)
    rest = [2, x.shape[1] // 2, *x.shape[2:]]
    split = b.node("Reshape", [x, split_shape], shape=[x.shape[0], *rest])
    turned = b.node("Transpose", [split], perm=[0, 2, 1, 3, 4])
    back = b.node("Concat", [sizes[0], ints(b, -1), sizes[2], sizes[3]], axis=0)
    return b.node("Reshape", [turned, back], shape=x.shape)


def _size(b: Builder, shape: Value, axis: int) -> Value:
    found = b.node("Gather", [shape, b.constant(np.int64(axis))], axis=0)
    if b.opset >= 13:
        return b.node("Unsqueeze", [found, ints(b, 0)])
    return b.node("Unsqueeze", [found], axes=[0])


@maker("view by shape", weight=3)
def view_by_shape(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3)
    batch = _size(b, b.node("Shape", [x]), 0)
    wanted = b.node("Concat", [batch, ints(b, -1)], axis=0)
    return b.node("Reshape", [x, wanted], shape=[x.shape[0], math.prod(x.shape[1:])])


@maker("resize to another tensor", weight=3)
def resize_like(b: Builder, x: Value) -> Value:
    b.since(11)
    others = [each for each in b.computed if each.rank == 4 and each.is_float and each.shape[2:] != x.shape[2:]]
    b.require(x.rank == 4)
    other = b.pick(others)
    b.require(math.prod(other.shape[2:]) < 400)
    shapes = b.node("Shape", [x]), b.node("Shape", [other])
    cut = [ints(b, 0), ints(b, 2)], [ints(b, 2), ints(b, 4)]
    parts = [b.node("Slice", [shape, *ends, ints(b, 0)], shape=[2]) for shape, ends in zip(shapes, cut, strict=True)]
    sizes = b.node("Concat", parts, axis=0)
    empty = b.constant(np.zeros(0, np.float32)) if b.opset < 13 else None
    return b.node(
        "Resize", [x, empty, empty, sizes], mode=b.pick(["nearest", "linear"]),
        coordinate_transformation_mode=b.pick(["asymmetric", "half_pixel"]), shape=[*x.shape[:2], *other.shape[2:]],
    )  # fmt: skip


@maker("two heads joined", weight=4)
def joined_heads(b: Builder, x: Value) -> Value:
    """Boxes in pixels and scores in 0..1 in one tensor: ranges that do not go on one grid."""
    b.require(x.rank == 4)
    boxes = plain_conv(b, x, 4, 1)
    boxes = b.node("Mul", [boxes, b.constant(np.float32(b.pick([100.0, 1.0])))])
    scores = b.node("Sigmoid", [plain_conv(b, x, 3, 1)])
    return b.node("Concat", [boxes, scores], axis=1)


@maker("part in half precision", weight=2)
def half_part(b: Builder, x: Value) -> Value:
    """A layer in FP16, weights and all, between Casts: models of mixed precision."""
    b.since(9)
    half = b.node("Cast", [x], to=TensorProto.FLOAT16)
    width = x.shape[1] if x.rank == 4 else x.shape[-1]
    if x.rank == 4:
        weight = scaled(b, 4, width, 3, 3, fan_in=9 * width).astype(np.float16)
        half = b.node("Conv", [half, b.constant(weight), b.constant(b.numbers(4).astype(np.float16))], pads=[1] * 4)
    else:
        half = b.node("MatMul", [half, b.constant(scaled(b, width, 4, fan_in=width).astype(np.float16))])
    if b.chance(50):
        half = b.node("Relu", [half])
    return b.node("Cast", [half], to=TensorProto.FLOAT)


@maker("mean of a tensor that is scaled", weight=2)
def gate(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4)
    mean = reduce(b, x, "ReduceMean")
    b.require(
        mean.rank == 4 and not any(one not in (other, 1) for one, other in zip(mean.shape, x.shape, strict=False))
    )
    return b.node("Mul", [x, b.node("Sigmoid", [mean])])
