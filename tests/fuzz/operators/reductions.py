"""Operators that reduce, order, count or describe."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper

from tests.fuzz.builder import Builder, Value
from tests.fuzz.operators.layers import as_rank
from tests.fuzz.operators.moves import ints
from tests.fuzz.operators.table import maker


@maker("ReduceMean", "ReduceMax", "ReduceSum", weight=4)
@maker(
    "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceProd", "ReduceLogSum", weight=1
)
def reduce(b: Builder, x: Value, operator: str) -> Value:
    axes = [b.axis(x)]
    if x.rank == 4 and b.chance(50):
        axes = [2, 3]
    if operator == "ReduceLogSum":
        x = b.node("Add", [b.node("Abs", [x]), b.constant(np.float32(0.5))])
    if operator == "ReduceProd":
        x = b.node("Tanh", [x])
    keep = b.pick([1, 0])
    spelled = [axis - x.rank for axis in axes] if b.opset >= 11 and b.chance(30) else axes
    if b.opset >= (13 if operator == "ReduceSum" else 18):
        given = None if not b.free_batch and b.chance(10) else ints(b, *spelled)
        return b.node(operator, [x, given], keepdims=keep)
    return b.node(operator, [x], axes=spelled, keepdims=keep)


@maker("ArgMax", "ArgMin", jumps=True, weight=2)
def arg(b: Builder, x: Value, operator: str) -> Value:
    last = b.pick([None, 1]) if b.opset >= 12 else None
    return b.node(operator, [x], axis=b.axis(x), keepdims=b.pick([1, 0]), select_last_index=last)


@maker("TopK", jumps=True, weight=2)
def top_k(b: Builder, x: Value) -> Value:
    axis = b.axis(x)
    count = min(2, x.shape[axis])
    if b.opset < 10:
        outputs = b.many("TopK", [x], 2, axis=axis, k=count)
    else:
        largest = b.pick([None, 0]) if b.opset >= 11 else None
        outputs = b.many("TopK", [x, ints(b, count)], 2, axis=axis, largest=largest)
    return outputs[b.pick([0, 1])]


@maker("CumSum")
def cumulative_sum(b: Builder, x: Value) -> Value:
    b.since(11)
    return b.node(
        "CumSum", [x, b.constant(np.int64(b.axis(x)))], exclusive=b.pick([None, 1]), reverse=b.pick([None, 1])
    )


@maker("OneHot", takes="integer")
def one_hot(b: Builder, x: Value) -> Value:
    b.since(11)
    depth, values = b.constant(np.int64(4)), b.constant(np.array([0, 1], np.float32))
    b.require(x.rank > 0)
    return b.many("OneHot", [x, depth, values], 1, shapes=[[*x.shape, 4]], kinds=[TensorProto.FLOAT])[0]


@maker("Shape", weight=2)
def shape_of(b: Builder, x: Value) -> Value:
    b.require(not b.free_batch)
    start = b.pick([None, 1]) if b.opset >= 15 else None
    return b.node("Shape", [x], start=start)


@maker("Size")
def size_of(b: Builder, x: Value) -> Value:
    b.require(not b.free_batch)
    return b.node("Mul", [b.node("Sigmoid", [x]), b.node("Cast", [b.node("Size", [x])], to=TensorProto.FLOAT)])


@maker("NonZero", jumps=True)
def non_zero(b: Builder, x: Value) -> Value:
    b.since(9)
    b.require(not b.free_batch and x.rank >= 2)
    # The first element's place: how many there are depends on the image.
    found = b.many("NonZero", [x], 1, shapes=[[x.rank, 1]], kinds=[TensorProto.INT64])[0]
    return b.node("Gather", [found, b.constant(np.int64(0))], axis=1)


@maker("Unique", jumps=True)
def unique(b: Builder, x: Value) -> Value:
    b.since(11)
    b.require(not b.free_batch)
    found = b.many("Unique", [x], 1, sorted=1, shapes=[[2]])[0]
    return b.node("ReduceMax", [found], keepdims=1)


@maker("EyeLike")
def eye_like(b: Builder, x: Value) -> Value:
    b.since(9)
    b.require(not b.free_batch)
    x = as_rank(b, x, 2)
    return b.node("Mul", [x, b.node("EyeLike", [x])])


@maker("ConstantOfShape", weight=2)
def constant_of_shape(b: Builder, x: Value) -> Value:
    b.since(9)
    b.require(not b.free_batch)
    shape = b.node("Shape", [x]) if b.chance(50) else ints(b, *x.shape)
    value = None if b.chance(50) else numpy_helper.from_array(np.array([0.25], np.float32))
    filled = b.many("ConstantOfShape", [shape], 1, shapes=[x.shape], kinds=[TensorProto.FLOAT], value=value)[0]
    return b.node("Add", [x, filled])


@maker("Range")
def range_(b: Builder, x: Value) -> Value:
    b.since(11)
    ends = [b.constant(np.float32(each)) for each in (0, x.shape[-1], 1)]
    steps = b.node("Range", ends, shape=[x.shape[-1]])
    return b.node("Mul", [x, steps])


@maker("DFT")
def dft(b: Builder, x: Value) -> Value:
    b.since(20)
    b.require(x.rank >= 2 and x.shape[-1] > 1)
    signal = b.node("Unsqueeze", [x, ints(b, x.rank)])
    return b.node("DFT", [signal, None, b.constant(np.int64(-2))], shape=[*x.shape, 2])


@maker("STFT")
def stft(b: Builder, x: Value) -> Value:
    b.since(17)
    b.require(not b.free_batch and x.rank >= 2)
    flat = as_rank(b, x, 2)
    length = flat.shape[1]
    b.require(length >= 16)
    window = b.constant(np.ones(8, np.float32))
    signal = b.node("Unsqueeze", [flat, ints(b, 2)])
    return b.node(
        "STFT", [signal, b.constant(np.int64(4)), window, b.constant(np.int64(8))], onesided=1,
        shape=[flat.shape[0], (length - 8) // 4 + 1, 5, 2],
    )  # fmt: skip


@maker("HannWindow", "HammingWindow", "BlackmanWindow")
def window(b: Builder, x: Value, operator: str) -> Value:
    b.since(17)
    length = b.constant(np.int64(x.shape[-1]))
    factors = b.many(operator, [length], 1, shapes=[[x.shape[-1]]], kinds=[TensorProto.FLOAT])[0]
    return b.node("Mul", [x, factors])


@maker("MelWeightMatrix")
def mel(b: Builder, x: Value) -> Value:
    b.since(17)
    b.require(x.shape[-1] >= 5)
    part = b.node("Slice", [x, ints(b, 0), ints(b, 5), ints(b, -1)])
    numbers = [b.constant(each) for each in (np.int64(4), np.int64(8), np.int64(8000), np.float32(0), np.float32(4000))]
    matrix = b.many("MelWeightMatrix", numbers, 1, shapes=[[5, 4]], kinds=[TensorProto.FLOAT])[0]
    return b.node("MatMul", [part, matrix])


@maker("NonMaxSuppression", jumps=True)
def non_max_suppression(b: Builder, x: Value) -> Value:
    b.since(10)
    b.require(not b.free_batch and x.rank >= 2)
    flat = as_rank(b, x, 2)
    b.require(flat.shape[1] >= 20 and flat.shape[0] == 1)
    cut = b.node("Slice", [flat, ints(b, 0), ints(b, 20), ints(b, 1)])
    boxes = b.node("Reshape", [b.node("Sigmoid", [cut]), ints(b, 1, 5, 4)])
    scores = b.node(
        "ReduceMax",
        [boxes, ints(b, 2)] if b.opset >= 18 else [boxes],
        **({} if b.opset >= 18 else {"axes": [2]}),
        keepdims=0,
    )
    scores = b.node("Reshape", [scores, ints(b, 1, 1, 5)])
    numbers = [b.constant(np.int64(1)), b.constant(np.float32(0.5)), b.constant(np.float32(0.0))]
    return b.many("NonMaxSuppression", [boxes, scores, *numbers], 1, shapes=[[1, 3]], kinds=[TensorProto.INT64])[0]


@maker("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
def loss(b: Builder, x: Value, operator: str) -> Value:
    b.since(12)
    b.require(not b.free_batch and x.rank >= 2)
    flat = as_rank(b, x, 2)
    labels = b.constant(np.zeros(flat.shape[0], np.int64))
    if operator == "NegativeLogLikelihoodLoss":
        flat = b.node("LogSoftmax", [flat], axis=1)
    return b.node(operator, [flat, labels], reduction="none")
