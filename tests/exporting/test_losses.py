"""What INT8 loses on small graphs with a known answer, in exact arithmetic: no more than 8 bits have to cost."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.graphs.bounds import Magnitudes
from edgeq.exporting.graphs.graph import new_initializer
from edgeq.exporting.onnx.dynamic import insert_dynamic
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import QuantPlan, make_dynamic_plan, make_plan
from edgeq.exporting.planning.selection import observed_tensors, select_layers
from edgeq.exporting.tensorrt.scales import implicit_scales
from edgeq.quantizers.bias import quantize_bias, scale_for_bias
from edgeq.schemes import PerAxis, PerTensor
from edgeq.targets import TARGETS, Rules, get_target
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

ENOUGH_DB = 25.0

COORDINATES = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, wa) ra = Relu(a)
    j = Concat<axis=1>(ra, grid) c = Conv(j, wc) rc = Relu(c) d = Conv(rc, wd) rd = Relu(d) y = Conv(rd, wy) }"""
"""As CoordConv has it: the features and where they are."""

PRUNED = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, wa, ba) ra = Relu(a)
    c = Conv(ra, wc) rc = Relu(c) y = Conv(rc, wy) }"""


def snr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the ratio of the signal to what quantization changes of it, in decibels."""
    noise = np.square(found.astype(np.float64) - wanted).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / max(noise, 1e-30)))


def coordinates(size: float, lowest: float = -1.0) -> np.ndarray:
    """Returns the columns and rows of an 8x8 map, from `lowest * size` to `size`."""
    line = np.linspace(lowest * size, size, 8, dtype=np.float32)
    return np.stack(np.meshgrid(line, line))[None].astype(np.float32)


def with_coordinates(size: float, lowest: float = -1.0) -> ir.Model:
    """Returns a net to which the coordinates matter as much as the features do."""
    wc = nets.normal(3, 4, 6, 1, 1)
    wc[:, 4:] *= np.float32(2 / size)
    weights = {
        "wa": nets.normal(1, 4, 3, 3, 3) / 4, "grid": coordinates(size, lowest), "wc": wc,
        "wd": nets.normal(5, 4, 4, 1, 1), "wy": nets.normal(4, 2, 4, 1, 1),
    }  # fmt: skip
    return nets.graph(COORDINATES, weights)


def pruned(channels: int = 4, bias: float = 0.31, factor: float = 0.0) -> ir.Model:
    """Returns a net of which some channels are left with their biases alone."""
    wa = nets.normal(1, 4, 3, 3, 3) / 256
    wa[:channels] *= np.float32(factor)
    ba = np.float32(bias) * np.array([1, 1.1, -0.7, 1.3], np.float32)
    weights = {"wa": wa, "ba": ba, "wc": np.abs(nets.normal(3, 4, 4, 1, 1)), "wy": nets.normal(4, 2, 4, 1, 1)}
    return nets.graph(PRUNED, weights)


IMAGE = nets.normal(9, 1, 3, 8, 8)


PIXELS = 64 * IMAGE
"""Whose step is 1 or so: to it a bias of .31 is nothing."""


def quantized(model: ir.Model, image: np.ndarray, rules: Rules) -> tuple[ir.Model, QuantPlan]:
    """Returns the INT8 graph of a model and its plan, from what calibration would observe."""
    selection = select_layers(model, rules)
    ranges = ranges_for(model, image, tuple(observed_tensors(model, [selection])))
    plan = make_plan(model, selection, ranges, rules)
    result = nets.copy(model)
    insert_qdq(result, plan, rules)
    return result, plan


def measured(model: ir.Model, image: np.ndarray, rules: Rules) -> float:
    """Returns the signal-to-noise ratio of the INT8 graph of a model, without any optimization."""
    return snr_db(nets.run(quantized(model, image, rules)[0], image)[0], nets.run(model, image)[0])


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize(("size", "lowest"), [(1.0, -1.0), (8.0, 0.0), (6.0, -1.0), (1.0, 0.0)])
def test_a_constant_that_is_joined_with_activations_has_room_on_their_grid(target, size, lowest):
    model, rules = with_coordinates(size, lowest), get_target(target).rules
    assert measured(model, IMAGE, rules) > ENOUGH_DB
    _, plan = quantized(model, IMAGE, rules)
    assert plan.tied.get("grid", plan.tensors.get("j")) == plan.tensors["j"]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_constant_of_another_order_is_split_from_the_activations(target, caplog):
    """Anchors in pixels: on one grid with features around 1 they would leave these a handful of steps."""
    model, rules = with_coordinates(416.0, 0.0), get_target(target).rules
    with caplog.at_level(logging.WARNING, logger="edgeq"):
        assert measured(model, IMAGE, rules) > ENOUGH_DB
    assert "mixed ranges" in caplog.text


def test_a_constant_of_zeros_goes_with_every_range():
    model = with_coordinates(1.0)
    model.graph.initializers["grid"].const_value = ir.tensor(np.zeros((1, 2, 8, 8), np.float32), name="grid")
    _, plan = quantized(model, IMAGE, get_target("x86").rules)
    assert plan.notes == ()
    assert plan.tensors["j"] == plan.tensors["ra"]


def test_a_constant_that_is_moved_before_it_is_joined_counts_too():
    """The number of copies is known at run time alone, so that it cannot be computed beforehand."""
    model = with_coordinates(6.0)
    (joined,) = (node for node in model.graph if node.op_type == "Concat")
    shape = ir.node("Shape", [model.graph.inputs[0]])
    model.graph.inputs[0].shape = ir.Shape(["N", 3, 8, 8])
    ones = new_initializer(model, "ones", np.array([1, 1, 1]))
    first, last = new_initializer(model, "first", np.array([0])), new_initializer(model, "last", np.array([1]))
    repeated = ir.node("Slice", [shape.outputs[0], first, last])
    size = ir.node("Concat", [repeated.outputs[0], ones], {"axis": 0})
    moved = ir.node("Expand", [model.graph.initializers["grid"], size.outputs[0]])
    for node in (shape, repeated, size, moved):
        node.outputs[0].name = f"{node.op_type}_made"
    model.graph.insert_before(joined, [shape, repeated, size, moved])
    joined.replace_input_with(1, moved.outputs[0])
    result, plan = quantized(model, IMAGE, get_target("x86").rules)
    assert plan.tensors["Expand_made"] == plan.tensors["j"]
    assert not any("size" in name or "Slice" in name for name in plan.tensors)
    assert snr_db(nets.run(result, IMAGE)[0], nets.run(model, IMAGE)[0]) > ENOUGH_DB


def test_the_cache_has_a_scale_for_the_constant():
    model, rules = with_coordinates(6.0), get_target("jetson-orin").rules
    selection = select_layers(model, rules)
    ranges = ranges_for(model, IMAGE, tuple(observed_tensors(model, [selection])))
    scales = implicit_scales(model, make_plan(model, selection, ranges, rules), ranges)
    assert scales["grid"] == scales["j"] == pytest.approx(6 / 127)


def test_a_large_constant_is_seen_by_the_audit_of_fp16():
    model = with_coordinates(1e6, 0.0)
    joined = next(node for node in model.graph if node.op_type == "Concat")
    histograms = ranges_for(model, IMAGE, ("x", "ra")).histograms
    assert Magnitudes(histograms).of(joined.outputs[0]) == 1e6


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("factor", [0.0, 1e-12, 1e-35])
@pytest.mark.parametrize("bias", [0.31, 30.0, 1e-4])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_channel_without_weights_keeps_its_bias(target, channels, bias, factor):
    assert measured(pruned(channels, bias, factor), PIXELS, get_target(target).rules) > ENOUGH_DB


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_deconvolution_without_weights_keeps_its_bias(per_channel):
    text = """g (float[1,4,5,5] x) => (float[1,2,10,10] y) { c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)
        r = Relu(c) y = Conv(r, v) }"""
    weights = {"w": np.zeros((4, 6, 4, 4), np.float32), "b": nets.positive(1, 6), "v": nets.normal(2, 2, 6, 1, 1)}
    model, x = nets.graph(text, weights), nets.normal(9, 1, 4, 5, 5)
    rules = get_target("x86").rules
    static = rules.static("ConvTranspose")
    assert static is not None
    weight = static.weight.along(PerAxis() if per_channel else PerTensor())
    declared = {**rules.schemes, "ConvTranspose": (dataclasses.replace(static, weight=weight),)}
    rules = dataclasses.replace(rules, schemes=declared)
    result, _ = quantized(model, x, rules)
    assert snr_db(nets.run(result, x)[0], nets.run(model, x)[0]) > ENOUGH_DB


@pytest.mark.parametrize("bits", [7, 5])
def test_a_channel_without_weights_keeps_its_bias_with_fewer_bits(bits):
    model, rules = pruned(4), get_target("x86").rules
    selection = select_layers(model, rules).with_bits(bits, 8)
    ranges = ranges_for(model, PIXELS, tuple(observed_tensors(model, [selection])))
    result = nets.copy(model)
    insert_qdq(result, make_plan(model, selection, ranges, rules), rules)
    assert snr_db(nets.run(result, PIXELS)[0], nets.run(model, PIXELS)[0]) > ENOUGH_DB


def test_a_channel_without_weights_keeps_its_bias_in_a_dynamic_file():
    model = pruned(4)
    expected = nets.run(model, PIXELS)[0]
    rules = get_target("x86").rules
    insert_dynamic(model, make_dynamic_plan(model, select_layers(model, rules), rules))
    assert snr_db(nets.run(model, PIXELS)[0], expected) > ENOUGH_DB


@settings(deadline=None)
@given(
    scales=st.lists(st.floats(2**-60, 2**20), min_size=1, max_size=5),
    dead=st.integers(0, 31),
    bias=st.floats(2**-40, 2**20),
    input_scale=st.floats(2**-30, 2**10),
)
def test_every_bias_fits_and_that_of_a_dead_channel_has_its_steps(scales, dead, bias, input_scale):
    scale = np.array(scales, np.float32)
    without = np.array([bool(dead >> index & 1) for index in range(len(scales))])
    biases = np.full(len(scales), bias, np.float32)
    fitted = scale_for_bias(scale, without, biases, input_scale)
    assert (fitted[~without] >= scale[~without]).all()
    stored = quantize_bias(biases, fitted, input_scale)
    assert (np.abs(stored.integers.astype(np.int64)) <= 2**30 + 2**7).all()
    np.testing.assert_allclose(stored.dequantize()[without], biases[without], rtol=2.0**-16)
    step = fitted * np.float64(input_scale)
    assert (np.abs(stored.dequantize() - biases) <= 0.5001 * step + 1e-6 * biases).all()


@settings(deadline=None)
@given(bias=st.floats(0, 2**-90, width=32), input_scale=st.floats(2**-30, 2**10))
def test_a_bias_too_small_for_a_step_is_zero(bias, input_scale):
    """Folded BatchNorms leave such biases in dead channels; a step of 0 made them -2 ** 31."""
    biases = np.array([bias, -bias, 1], np.float32)
    fitted = scale_for_bias(np.ones(3, np.float32), np.array([True, True, True]), biases, input_scale)
    assert (fitted >= np.finfo(np.float32).tiny).all()
    stored = quantize_bias(biases, fitted, input_scale)
    assert (np.abs(stored.integers.astype(np.int64)) <= 2**30).all()
    np.testing.assert_allclose(stored.dequantize(), biases, rtol=2.0**-16, atol=1e-30)
