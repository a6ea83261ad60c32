"""What constants alone decide becomes a constant, and a weight behind it is quantized."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.graph import opset_of, weight_of
from edgeq.exporting.passes import computed_constants
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.computed_constants import fold_computed_constants
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.exporting.planning.selection import select_layers
from edgeq.targets import get_target
from tests.exporting import nets

IMAGE = nets.normal(0, 1, 8, 10, 10)
# Large enough that onnxscript's own folder leaves it: it stops at 8192 values.
KERNEL = nets.normal(1, 128, 8, 3, 3)

NORMALISED = """g (float[1,8,10,10] x) => (float[1,8,10,10] y) <int64[3] axes = {1, 2, 3}> {
    squares = ReduceSumSquare<keepdims=1>(v, axes)
    norm = Sqrt(squares)
    direction = Div(v, norm)
    w = Mul(direction, gain)
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Relu(a)
    y = Conv(b, w2)
}"""
STANDARDISED = """g (float[1,8,10,10] x) => (float[1,8,10,10] y) <int64[3] axes = {1, 2, 3}, float eps = {1e-6}> {
    mean = ReduceMean<keepdims=1>(v, axes)
    centred = Sub(v, mean)
    squares = Mul(centred, centred)
    variance = ReduceMean<keepdims=1>(squares, axes)
    safe = Add(variance, eps)
    deviation = Sqrt(safe)
    w = Div(centred, deviation)
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Relu(a)
    y = Conv(b, w2)
}"""
HALVES = """g (float[1,8,10,10] x) => (float[1,8,10,10] y) {
    first, second = Split<axis=0, num_outputs=2>(v)
    w = Concat<axis=0>(second, first)
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Relu(a)
    y = Conv(b, w2)
}"""
STORED = """g (float[1,8,10,10] x) => (float[1,8,10,10] y) {
    w = DequantizeLinear<axis=0>(v8, steps, zeros)
    a = Conv<pads=[1,1,1,1]>(x, w)
    b = Relu(a)
    half = Cast<to=1>(w16)
    y = Conv(b, half)
}"""
W2 = {"w2": nets.normal(2, 8, 128, 1, 1)}
WEIGHTS = {
    NORMALISED: {"v": KERNEL, "gain": nets.positive(3, 128, 1, 1, 1)} | W2,
    STANDARDISED: {"v": KERNEL} | W2,
    HALVES: {"v": KERNEL} | W2,
    STORED: {
        "v8": np.rint(KERNEL * 40).astype(np.int8),
        "steps": nets.positive(4, 128),
        "zeros": np.zeros(128, np.int8),
        "w16": W2["w2"].astype(np.float16),
    },
}


@pytest.mark.parametrize("text", WEIGHTS, ids=["normalised", "standardised", "split", "stored in 8 and 16 bits"])
def test_a_computed_weight_becomes_a_constant_and_is_quantized(text: str) -> None:
    model = nets.graph(text, WEIGHTS[text])
    (wanted,) = nets.run(model, IMAGE)
    assert None in [weight_of(node) for node in model.graph if node.op_type == "Conv"]
    run_passes(model, SIMPLIFYING)
    assert nets.ops(model) == ["Conv", "Relu", "Conv"]
    np.testing.assert_allclose(nets.run(model, IMAGE)[0], wanted, rtol=1e-5, atol=1e-4)
    first = select_layers(model, get_target("x86").rules).decisions[0]
    assert (first.op_type, first.is_float) == ("Conv", False)


def test_a_weight_that_two_layers_share_folds_once_for_both() -> None:
    text = """g (float[1,8,10,10] x) => (float[1,128,10,10] y) {
        w = Neg(v)
        a = Conv<pads=[1,1,1,1]>(x, w)
        b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)
        y = Add(a, b)
    }"""
    model = nets.graph(text, {"v": KERNEL})
    (wanted,) = nets.run(model, IMAGE)
    report = fold_computed_constants(model)
    assert len(report.done) == 1 and list(model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(nets.run(model, IMAGE)[0], wanted)


FILLED = """g (float[1,8,10,10] x) => (float[1,8,10,10] y) <int64[2] size = {8,100}, int64[4] shape = {1, 8, 10, 10}> {
    filled = ConstantOfShape<value = float[1] {3.0}>(size)
    shaped = Reshape(filled, shape)
    y = Add(x, shaped)
}"""


@pytest.mark.parametrize(("room", "stays"), [(797, True), (798, False)])
def test_a_large_array_that_a_few_numbers_make_stays(room: int, stays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed_constants, "MAX_GROWTH", room)
    model = nets.graph(FILLED)
    report = fold_computed_constants(model)
    assert nets.ops(model) == (["ConstantOfShape", "Reshape", "Add"] if stays else ["Add"])
    assert list(report.left.values()) == (["its result would make the file 798 values larger"] if stays else [])
    np.testing.assert_array_equal(nets.run(model, IMAGE)[0], IMAGE + 3)


def test_scales_stay_where_the_graph_quantizes_activations_too() -> None:
    text = """g (float[1,8,10,10] x) => (float[1,128,8,8] y) {
        q = QuantizeLinear(x, step, zero)
        d = DequantizeLinear(q, step, zero)
        w = DequantizeLinear<axis=0>(v8, steps, zeros)
        y = Conv(d, w)
    }"""
    weights = {name: array for name, array in WEIGHTS[STORED].items() if name != "w16"}
    model = nets.graph(text, weights | {"step": np.float32(0.1), "zero": np.int8(0)})
    report = fold_computed_constants(model)
    assert not report.changed and nets.ops(model).count("DequantizeLinear") == 2
    (reason,) = report.left.values()
    assert "quantizes activations" in reason


def test_what_is_random_or_an_output_stays() -> None:
    text = """g (float[1,8,10,10] x) => (float[1,8,10,10] y, float[128,8,3,3] out) {
        noise = RandomNormalLike<seed=1.0>(v)
        top = ReduceMax<keepdims=0>(noise)
        y = Add(x, top)
        out = Neg(v)
    }"""
    model = nets.graph(text, {"v": KERNEL})
    report = fold_computed_constants(model)
    assert not report.changed and "output of the graph" in next(iter(report.left.values()))
    assert {"RandomNormalLike", "ReduceMax", "Neg"} <= set(nets.ops(model))


def test_initializers_that_are_inputs_too_fold_as_others_do() -> None:
    """Files of IR 3 list their weights among the inputs, which onnxscript's folder takes for data."""
    text = NORMALISED.replace("x) =>", "x, float[128,8,3,3] v, float[128,1,1,1] gain) =>")
    model = nets.parse(text, WEIGHTS[NORMALISED])
    clean(model)
    fold_computed_constants(model)
    assert nets.ops(model) == ["Conv", "Relu", "Conv"]


def test_weights_of_four_bits_in_blocks_are_weights_in_an_older_opset() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[1,64] x) => (float[1,8] y) {
        w = DequantizeLinear<axis=0, block_size=32>(w4, steps)
        y = MatMul(x, w)
    }"""
    integers = np.random.default_rng(5).integers(-8, 8, (64, 8))
    steps, values = nets.positive(6, 2, 8), nets.normal(7, 1, 64)
    proto = onnx.parser.parse_model(text)
    packed = onnx.helper.make_tensor("w4", onnx.TensorProto.INT4, integers.shape, integers.reshape(-1).tolist())
    proto.graph.initializer.extend([packed, onnx.numpy_helper.from_array(steps, "steps")])
    model = ir.from_proto(proto)
    run_passes(model, reading(18))
    assert nets.ops(model) == ["MatMul"] and opset_of(model) == 18
    wanted = values @ (integers * np.repeat(steps, 32, axis=0))
    np.testing.assert_allclose(nets.run(model, values)[0], wanted, rtol=1e-5, atol=1e-4)
