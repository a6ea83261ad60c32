"""Operators that move, join, cut and repeat values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.layers import as_rank
from tests.fuzz.operators.table import maker


def ints(b: Builder, *numbers: int) -> Value:
    """Returns a constant of int64."""
    return b.constant(np.array(numbers, np.int64))


def reshaped(b: Builder, x: Value, rest: list[int]) -> Value:
    """Returns a tensor with other axes behind the first, which stays as it is."""
    first = b.pick([0, -1]) if b.free_batch or b.chance(70) else x.shape[0]
    return b.node("Reshape", [x, ints(b, first, *rest)], shape=[x.shape[0], *rest])


@maker("Reshape", weight=6)
def reshape(b: Builder, x: Value) -> Value:
    size = math.prod(x.shape[1:])
    b.require(x.rank >= 2 and size > 1)
    divisor = b.pick([each for each in (2, 3, 4, 5, size) if size % each == 0])
    rest = b.pick([[size], [divisor, size // divisor], [1, divisor, size // divisor], [divisor, 1, size // divisor, 1]])
    if not b.free_batch and b.chance(20):
        return b.node("Reshape", [x, ints(b, x.shape[0] * divisor, -1)])
    return reshaped(b, x, rest)


@maker("Transpose", weight=6)
def transpose(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 2)
    rest = list(range(1, x.rank))
    perm = b.pick([[0, *rest[1:], rest[0]], [0, rest[-1], *rest[:-1]], [0, *rest[::-1]]])
    if not b.free_batch and b.chance(15):
        return b.node("Transpose", [x])
    return b.node("Transpose", [x], perm=perm)


@maker("Flatten", weight=3)
def flatten(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 2)
    axis = 1 if b.free_batch else b.integer(0, x.rank)
    return b.node("Flatten", [x], axis=b.pick([axis, axis - x.rank]) if b.opset >= 11 else axis)


@maker("Squeeze", weight=2)
def squeeze(b: Builder, x: Value) -> Value:
    axes = [axis for axis, length in enumerate(x.shape) if length == 1 and axis >= b.free_batch]
    axes = [axis for axis in axes if axis] or axes
    return _with_axes(b, "Squeeze", x, [b.pick(axes)])


@maker("Unsqueeze", weight=2)
def unsqueeze(b: Builder, x: Value) -> Value:
    b.require(x.rank <= 4)
    return _with_axes(b, "Unsqueeze", x, [b.integer(1, x.rank)])


def _with_axes(b: Builder, operator: str, x: Value, axes: list[int]) -> Value:
    if b.opset < 13:
        return b.node(operator, [x], axes=axes)
    return b.node(operator, [x, ints(b, *axes)])


@maker("Slice", weight=5)
def slice_(b: Builder, x: Value) -> Value:
    axis = b.axis(x, batch=False)
    length = x.shape[axis]
    b.require(length >= 2)
    start, end = b.pick([(0, length // 2), (1, 2**31), (-(length // 2), length), (length // 2, length)])
    if b.opset < 10:
        return b.node("Slice", [x], starts=[start], ends=[end], axes=[axis])
    step = b.pick([1, 2])
    if b.chance(15):
        start, end, step = -1, -(2**40), -1
    return b.node("Slice", [x, *(ints(b, each) for each in (start, end, b.spelled(axis, x.rank), step))])


@maker("Gather", weight=3)
def gather(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    length = x.shape[axis]
    indices = b.pick([[0], [length - 1, 0], list(range(length))[::-1], [-1]])
    array: Any = np.array(indices, np.int64)
    if b.opset < 11:
        array = array % length
    if b.chance(25) and x.rank > 2:
        array = array[0]
    return b.node("Gather", [x, b.constant(array)], axis=b.spelled(axis, x.rank))


@maker("GatherElements")
def gather_elements(b: Builder, x: Value) -> Value:
    b.since(11)
    b.require(not b.free_batch and x.rank >= 2)
    axis = b.axis(x)
    indices = np.broadcast_to(np.arange(x.shape[axis])[::-1].reshape([-1] + [1] * (x.rank - 1 - axis)), x.shape)
    return b.node("GatherElements", [x, b.constant(np.ascontiguousarray(indices, np.int64))], axis=axis)


@maker("GatherND")
def gather_nd(b: Builder, x: Value) -> Value:
    b.since(12)
    b.require(x.rank >= 2)
    indices = np.array([[0], [x.shape[1] - 1]], np.int64)
    if b.free_batch:
        raise_batch = b.node("Transpose", [x], perm=[1, 0, *range(2, x.rank)])
        found = b.node("GatherND", [raise_batch, b.constant(indices)])
        return b.node("Transpose", [found], perm=[1, 0, *range(2, x.rank)])
    return b.node("GatherND", [x, b.constant(np.concatenate([indices * 0, indices], axis=1))])


@maker("Split", weight=4)
def split(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    length = x.shape[axis]
    b.require(length >= 2)
    parts = b.pick([each for each in (2, 3, length) if length >= each])
    lengths = [length // parts] * (parts - 1)
    lengths.append(length - sum(lengths))
    even = len(set(lengths)) == 1
    axis_written = b.spelled(axis, x.rank) if b.opset >= 11 else axis
    if b.opset < 13:
        outputs = b.many("Split", [x], parts, axis=axis_written, split=None if even and b.chance(50) else lengths)
    elif b.opset >= 18 and even and b.chance(50):
        outputs = b.many("Split", [x], parts, axis=axis_written, num_outputs=parts)
    else:
        given = None if even and b.chance(40) and b.opset < 18 else ints(b, *lengths)
        outputs = b.many("Split", [x, given], parts, axis=axis_written)
    return b.pick(outputs)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


@maker("Concat", weight=8)
def concat(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    same = [
        each for each in b.computed
        if each.is_float and each.rank == x.rank and each.array is None
        and _without(each.shape, axis) == _without(x.shape, axis)
    ]  # fmt: skip
    others = [b.pick(same)] if same else []
    if b.chance(20) and not b.free_batch:
        shape = list(x.shape)
        shape[axis] = 2
        others.append(b.constant(b.numbers(*shape), plain=False))
    if not others:
        others = [b.node("Relu", [x])]
    return b.node("Concat", [x, *others] if b.chance(60) else [*others, x], axis=b.spelled(axis, x.rank))


@maker("Pad", weight=4)
def pad(b: Builder, x: Value) -> Value:
    b.require(x.rank >= 3)
    mode = b.pick([None, "constant", "reflect", "edge"] + (["wrap"] if b.opset >= 19 else []))
    b.require(mode not in ("reflect", "wrap") or min(x.shape[2:]) > 2)
    b.require(mode in (None, "constant") or x.rank == 4)
    amounts = [0, 0, *([b.pick([1, 0, 2])] * (x.rank - 2)), 0, 0, *([b.pick([1, 0])] * (x.rank - 2))]
    value = b.pick([0.0, 0.0, 1.5, -3.0]) if mode in (None, "constant") else 0.0
    if b.opset < 11:
        return b.node("Pad", [x], mode=mode, pads=amounts, value=value or None)
    operands: list[Value | None] = [x, None, None]
    axes = None
    if b.opset >= 18 and b.chance(40):
        axes, amounts = ints(b, 2, -1), [1, 0, 1, 1]
    operands[1] = ints(b, *amounts)
    if value or b.chance(50):
        operands[2] = b.constant(np.float32(value))
    return b.node("Pad", [*operands, axes], mode=mode)


@maker("Tile", weight=2)
def tile(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    b.require(math.prod(x.shape) < 2000)
    repeats = [1] * x.rank
    repeats[axis] = 2
    return b.node("Tile", [x, ints(b, *repeats)])


@maker("Expand", weight=2)
def expand(b: Builder, x: Value) -> Value:
    b.since(8)
    axes = [axis for axis, length in enumerate(x.shape) if axis and length == 1]
    if not axes:
        return b.node("Expand", [x, ints(b, *[1] * x.rank)], shape=x.shape)
    shape = [1] * x.rank
    shape[b.pick(axes)] = 3
    return b.node("Expand", [x, ints(b, *shape)])


@maker("DepthToSpace", weight=3)
def depth_to_space(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and x.shape[1] % 4 == 0)
    return b.node("DepthToSpace", [x], blocksize=2, mode=b.pick([None, "CRD"]) if b.opset >= 11 else None)


@maker("SpaceToDepth", weight=2)
def space_to_depth(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and not any(side % 2 for side in x.shape[2:]))
    return b.node("SpaceToDepth", [x], blocksize=2)


@maker("Resize", weight=5)
def resize(b: Builder, x: Value) -> Value:
    b.since(10)
    b.require(x.rank == 4 and math.prod(x.shape) < 2000)
    mode = b.pick(["nearest", "linear", "cubic"] if b.opset >= 11 else ["nearest", "linear"])
    scales = b.constant(np.array([1, 1, 2, b.pick([2, 1.5])], np.float32))
    if b.opset == 10:
        return b.node("Resize", [x, scales], mode=mode)
    given: dict[str, Any] = {"mode": mode}
    given["coordinate_transformation_mode"] = b.pick(
        ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    )
    if mode == "nearest":
        given["nearest_mode"] = b.pick(["floor", "round_prefer_floor", "ceil"])
    roi = b.constant(np.zeros(0, np.float32)) if b.opset < 13 or b.chance(40) else None
    if b.chance(40) and (not b.free_batch or b.opset >= 18):
        sizes = [side * 2 - b.pick([0, 1]) for side in x.shape[2:]]
        empty = b.constant(np.zeros(0, np.float32)) if b.opset < 13 else None
        if b.opset >= 18:
            return b.node(
                "Resize", [x, roi, empty, ints(b, *sizes)], axes=[2, 3], shape=[*x.shape[:2], *sizes], **given
            )
        return b.node("Resize", [x, roi, empty, ints(b, *x.shape[:2], *sizes)], shape=[*x.shape[:2], *sizes], **given)
    return b.node("Resize", [x, roi, scales], **given)


@maker("Upsample", weight=4)
def upsample(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and b.opset <= 9 and math.prod(x.shape) < 2000)
    mode = b.pick(["nearest", "linear"])
    if b.opset < 9:
        return b.node("Upsample", [x], mode=mode, scales=[1.0, 1.0, 2.0, 2.0])
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    return b.node("Upsample", [x, scales], mode=mode)


@maker("ScatterElements", "Scatter")
def scatter(b: Builder, x: Value, operator: str) -> Value:
    b.require(not b.free_batch and x.rank >= 2 and (operator == "Scatter") == (b.opset < 11) and b.opset >= 9)
    shape = [1] * x.rank
    indices, updates = np.zeros(shape, np.int64), b.numbers(*shape)
    return b.node(operator, [x, b.constant(indices), b.constant(updates)], axis=b.axis(x))


@maker("ScatterND")
def scatter_nd(b: Builder, x: Value) -> Value:
    b.since(11)
    b.require(not b.free_batch and x.rank >= 2)
    indices, updates = np.array([[0, x.shape[1] - 1]], np.int64), b.numbers(1, *x.shape[2:])
    return b.node("ScatterND", [x, b.constant(indices), b.constant(updates)])


@maker("TensorScatter")
def tensor_scatter(b: Builder, x: Value) -> Value:
    b.since(24)
    b.require(x.rank == 4)
    update = b.node("Slice", [x, ints(b, 0), ints(b, 1), ints(b, 2)])
    return b.node("TensorScatter", [x, update], shape=x.shape)


@maker("ReverseSequence")
def reverse_sequence(b: Builder, x: Value) -> Value:
    b.since(10)
    b.require(not b.free_batch and x.rank >= 2 and x.shape[1] > 1)
    lengths = b.constant(np.full(x.shape[0], x.shape[1], np.int64))
    return b.node("ReverseSequence", [x, lengths], batch_axis=0, time_axis=1)


@maker("Compress")
def compress(b: Builder, x: Value) -> Value:
    b.since(9)
    axis = b.axis(x)
    keep = np.arange(x.shape[axis]) % 2 == 0
    shape = list(x.shape)
    shape[axis] = int(keep.sum())
    return b.node("Compress", [x, b.constant(keep)], axis=axis, shape=shape)


@maker("Col2Im")
def col2im(b: Builder, x: Value) -> Value:
    b.since(18)
    b.require(x.rank == 4 and x.shape[1] % 4 == 0 and not any(side % 2 for side in x.shape[2:]))
    columns = reshaped(b, x, [x.shape[1], math.prod(x.shape[2:])])
    sides = [2 * side for side in x.shape[2:]]
    given = {"strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1]}
    return b.node(
        "Col2Im", [columns, ints(b, *sides), ints(b, 2, 2)], shape=[x.shape[0], x.shape[1] // 4, *sides], **given
    )


@maker("CenterCropPad")
def center_crop_pad(b: Builder, x: Value) -> Value:
    b.since(18)
    b.require(x.rank == 4)
    return b.node("CenterCropPad", [x, ints(b, 6, 7)], axes=[2, 3], shape=[*x.shape[:2], 6, 7])


@maker("Trilu")
def trilu(b: Builder, x: Value) -> Value:
    b.since(14)
    b.require(x.rank >= 3)
    return b.node("Trilu", [x], upper=b.pick([1, 0]))


@maker("GridSample", weight=2)
def grid_sample(b: Builder, x: Value) -> Value:
    b.since(16)
    b.require(x.rank == 4 and not b.free_batch)
    grid = np.tanh(b.numbers(x.shape[0], 4, 5, 2))
    modes = ["linear", "nearest", "cubic"] if b.opset >= 20 else ["bilinear", "nearest", "bicubic"]
    padding = b.pick(["zeros", "border", "reflection"])
    return b.node(
        "GridSample", [x, b.constant(grid)], mode=b.pick(modes), padding_mode=padding, align_corners=b.pick([0, 1])
    )


@maker("AffineGrid")
def affine_grid(b: Builder, x: Value) -> Value:
    b.since(20)
    b.require(x.rank == 4 and not b.free_batch)
    theta = b.constant(np.array([[[0.9, 0.1, 0.0], [0.0, 0.8, 0.1]]], np.float32).repeat(x.shape[0], 0))
    # Of a single row with aligned corners ONNX Runtime, ONNX's reference and torch each make something else.
    aligned = b.pick([0, 1]) if min(x.shape[2:]) > 1 else 0
    grid = b.node("AffineGrid", [theta, ints(b, *x.shape)], align_corners=aligned, shape=[x.shape[0], *x.shape[2:], 2])
    return b.node("GridSample", [x, grid])


@maker("RoiAlign")
def roi_align(b: Builder, x: Value) -> Value:
    b.since(10)
    b.require(x.rank == 4 and not b.free_batch)
    boxes = b.constant(np.array([[0, 0, 4, 4], [1, 1, 5, 3]], np.float32))
    return b.node("RoiAlign", [x, boxes, b.constant(np.zeros(2, np.int64))], output_height=2, output_width=2)


@maker("MaxRoiPool")
def max_roi_pool(b: Builder, x: Value) -> Value:
    b.require(x.rank == 4 and not b.free_batch)
    return b.node("MaxRoiPool", [x, b.constant(np.array([[0, 0, 0, 4, 4]], np.float32))], pooled_shape=[2, 2])


@maker("Det")
def det(b: Builder, x: Value) -> Value:
    b.since(11)
    b.require(x.rank >= 3 and x.shape[-1] >= 2 and x.shape[-2] >= 2)
    part = b.node("Slice", [x, ints(b, 0, 0), ints(b, 2, 2), ints(b, x.rank - 2, x.rank - 1)])
    return b.node("Det", [part])


@maker("RotaryEmbedding")
def rotary(b: Builder, x: Value) -> Value:
    b.since(23)
    b.require(x.rank == 4 and x.shape[3] % 2 == 0 and not b.free_batch)
    angles = b.numbers(x.shape[0], x.shape[2], x.shape[3] // 2)
    return b.node("RotaryEmbedding", [x, b.constant(np.cos(angles)), b.constant(np.sin(angles))])


@maker("Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial", weight=0)
def random(b: Builder, x: Value, operator: str) -> Value:
    if operator == "Multinomial":
        b.require(x.rank >= 2)
        return b.node(operator, [as_rank(b, x, 2)], sample_size=2)
    return b.node(operator, [b.node("Sigmoid", [x])], dtype=TensorProto.FLOAT)
