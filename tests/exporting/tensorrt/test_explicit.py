"""Q/DQ files by TensorRT's rules, the strongly typed form of them, and the scales of the implicit route."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.plan import make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.tensorrt.scales import implicit_scales
from edgeq.exporting.tensorrt.strong_typing import to_fp16
from edgeq.targets import Rules, get_target
from edgeq.targets.x86 import QDQ
from tests.exporting import nets
from tests.exporting.test_qdq import quantized, ranges_for, ranges_of
from tests.exporting.test_topology import RESIDUAL_DETECTOR, WEIGHTS

JETSON = get_target("jetson-orin").rules
X86 = QDQ

PROJECTED = """g (float[1,8,8,8] x) => (float[1,2,4,4] y) {
    s = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w2) ra = Relu(a)
    b = Conv<pads=[1,1,1,1]>(ra, w1) t = Add(s, b) r = Relu(t) y = Conv(r, hm_w) }"""


def pairs(model: ir.Model) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """Returns quantized tensor -> scale, zero point and the operator that reads the dequantized side."""
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            (dequantize,) = (use.node for use in node.outputs[0].uses())
            scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
            assert dequantize.inputs[1] is node.inputs[1] and dequantize.inputs[2] is node.inputs[2]
            assert node.inputs[0] is not None and scale is not None and zero is not None
            readers = sorted({use.node.op_type for use in dequantize.outputs[0].uses()})
            found[str(node.inputs[0].name)] = (scale, zero, "+".join(readers))
    return found


def test_pairs_stand_where_tensorrt_wants_them():
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    result, _ = quantized(model, x, JETSON)
    found = pairs(result)
    readers = {name: reader for name, (_, _, reader) in found.items()}
    # The identity has a pair and c2, which ends in the Add, has none; r0 is only pooled; heads read floats.
    assert readers == {"image": "Conv", "w0": "Conv", "w1": "Conv", "w2": "Conv", "p0": "Add+Conv", "r1": "Conv"}
    for scale, zero, _ in found.values():
        assert scale.dtype == np.float32 and (scale > 0).all()
        assert zero.dtype == np.int8 and not zero.any() and zero.shape == scale.shape
    assert {name: found[name][0].shape for name in found} == {
        "image": (), "p0": (), "r1": (), "w0": (8,), "w1": (8,), "w2": (8,)
    }  # fmt: skip
    kept = constant(result.graph.initializers["w1"])
    assert kept is not None and np.array_equal(kept, WEIGHTS["w1"])
    for got, want in zip(nets.run(result, x), nets.run(model, x), strict=True):
        assert np.abs(got - want).max() < 0.06 * np.abs(want).max()


def test_float_weights_compute_what_stored_integers_compute():
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    folded, _ = quantized(model, x, JETSON)
    stored, _ = quantized(model, x, dataclasses.replace(JETSON, float_weights=False))
    for got, want in zip(nets.run(folded, x), nets.run(stored, x), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("order", ["s, b", "b, s"])
def test_the_projection_gets_the_pair_and_the_deeper_branch_none(order):
    model = nets.graph(PROJECTED.replace("Add(s, b)", f"Add({order})"), WEIGHTS)
    assert select_layers(model, JETSON).tensors == ("x", "s", "ra")
    assert select_layers(model, X86).tensors == ("x", "s", "ra", "b", "r")


def test_a_branch_that_somebody_else_reads_keeps_its_pair():
    text = PROJECTED.replace("y = Conv(r, hm_w)", "q = Conv(b, w3) u = Add(r, q) y = Conv(u, hm_w)")
    model = nets.graph(text, WEIGHTS | {"w3": nets.normal(6, 8, 8, 1, 1)})
    assert {"s", "b"} & set(select_layers(model, JETSON).tensors) == {"b"}


def test_layers_in_float_read_the_tensor_itself():
    text = """g (float[1,8,8,8] x) => (float[1,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a)
        d = Conv<pads=[1,1,1,1], group=8>(r, dw) e = Conv<pads=[1,1,1,1]>(r, w2) f = Add(d, e) z = Relu(f)
        y = Conv(z, w3) }"""
    weights = WEIGHTS | {"dw": nets.normal(6, 8, 1, 3, 3), "w3": nets.normal(7, 8, 8, 1, 1)}
    model, x = nets.graph(text, weights), nets.normal(9, 1, 8, 8, 8)
    result, _ = quantized(model, x, JETSON)
    readers = {str(node.inputs[1].name): str(node.inputs[0].name) for node in result.graph if node.op_type == "Conv"}  # type: ignore[union-attr]
    assert (readers["dw"], readers["w2_dequantized"]) == ("r", "r_dequantized")


@pytest.mark.parametrize("target", ["jetson-orin", "x86"])
def test_layers_that_share_a_weight_and_a_bias(target):
    text = """g (float[1,8,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w1, b) r = Relu(a)
        c = Conv<pads=[1,1,1,1]>(r, w1, b) q = Relu(c) y = Conv(q, hm_w) }"""
    model, x = nets.graph(text, WEIGHTS | {"b": nets.normal(6, 8)}), nets.normal(9, 1, 8, 8, 8)
    result, _ = quantized(model, x, get_target(target).rules)
    onnx.checker.check_model(ir.to_proto(result))
    want = nets.run(model, x)[0]
    assert np.abs(nets.run(result, x)[0] - want).max() < 0.06 * np.abs(want).max()
    if target == "jetson-orin":
        assert list(pairs(result)) == ["x", "w1", "r"]


CONCAT = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w0) ra = Relu(a) b = Conv<pads=[1,1,1,1]>(ra, w1) rb = Relu(b)
    j = Concat<axis=1>(ra, rb) c = Conv(j, wide) rc = Relu(c) y = Conv(rc, hm_w) }"""
CONCAT_WEIGHTS = WEIGHTS | {"wide": nets.normal(6, 8, 16, 1, 1)}


def test_inputs_of_a_concat_share_the_scale_and_only_read_ones_have_a_pair():
    model, x = nets.graph(CONCAT, CONCAT_WEIGHTS), nets.normal(9, 1, 3, 8, 8)
    result, plan = quantized(model, x, JETSON)
    found = pairs(result)
    assert {name: reader for name, (_, _, reader) in found.items() if not name.startswith("w")} == {
        "x": "Conv", "ra": "Concat+Conv", "j": "Conv"
    }  # fmt: skip
    assert found["ra"][0] == found["j"][0]
    assert plan.tied["rb"] == plan.tensors["j"]


def test_deconvolutions_stay_float_and_are_named():
    text = """g (float[1,8,5,5] x) => (float[1,2,10,10] y) { a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a)
        c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(r, w) q = Relu(c) y = Conv(q, hm_w) }"""
    model, x = nets.graph(text, WEIGHTS | {"w": nets.normal(1, 8, 8, 4, 4)}), nets.normal(9, 1, 8, 5, 5)
    choices = {decision.op_type: decision for decision in select_layers(model, JETSON).decisions}
    assert choices["ConvTranspose"].reason == "the target leaves ConvTranspose in float"
    asked = JETSON.requested("ConvTranspose")
    found = pairs(quantized(model, x, asked)[0])
    assert found["w"][0].shape == () and found["w1"][0].shape == (8,)


def strongly_typed(model: ir.Model, inputs: np.ndarray, rules: Rules) -> ir.Model:
    result, _ = quantized(nets.in_opset(model, rules.opset), inputs, rules)
    to_fp16(result)
    return result


def test_strong_typing_makes_everything_fp16_but_the_ends():
    rules = get_target("jetson-orin-trt11").rules
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    result = strongly_typed(model, x, rules)
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    ends = [*result.graph.inputs, *result.graph.outputs]
    assert {value.dtype for value in ends} == {ir.DataType.FLOAT}
    assert [value.name for value in ends] == ["image", "hm", "wh"]
    inner = [value for node in result.graph for value in node.outputs if not value.is_graph_output()]
    assert {value.dtype for value in [*inner, *result.graph.initializers.values()]} == {
        ir.DataType.FLOAT16, ir.DataType.INT8
    }  # fmt: skip
    for got, want in zip(nets.run(result, x), nets.run(model, x), strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - want).max() < 0.06 * np.abs(want).max()


def test_scales_are_rounded_up_so_that_the_largest_weight_is_not_cut_off():
    rules = get_target("jetson-orin-trt11").rules
    weights = WEIGHTS | {"w0": WEIGHTS["w0"] * np.geomspace(1e-9, 1, 8, dtype=np.float32)[:, None, None, None]}
    model, x = nets.graph(RESIDUAL_DETECTOR, weights), nets.normal(9, 1, 3, 16, 16)
    scale, _, _ = pairs(strongly_typed(model, x, rules))["w0"]
    assert scale.dtype == np.float16 and (scale > 0).all()
    exact = np.abs(weights["w0"]).reshape(8, -1).max(axis=1) / 127
    assert (scale.astype(np.float64) >= exact * (1 - 1e-7)).all()


def test_a_resize_keeps_its_factors_in_float32():
    text = """g (float[1,8,4,4] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w1) r = Relu(a)
        u = Resize<mode="nearest">(r, , factors) y = Conv(u, hm_w) }"""
    model = nets.graph(text, WEIGHTS | {"factors": np.array([1, 1, 2, 2], np.float32)})
    x = nets.normal(9, 1, 8, 4, 4)
    want = nets.run(model, x)[0]
    to_fp16(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(nets.run(model, x)[0], want, atol=0.01 * np.abs(want).max())


def test_what_does_not_fit_into_fp16_is_refused():
    model = nets.graph("g (float[1,4] x) => (float[1,4] y) { y = Mul(x, big) }", {"big": np.full(4, 1e6, np.float32)})
    with pytest.raises(ModelError, match=r"big: holds 1e\+06, and FP16 ends at 65504"):
        to_fp16(model)


def test_cache_names_what_is_quantized_and_what_stands_inside_a_fusion():
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    selection = select_layers(model, JETSON)
    ranges = ranges_for(model, x, select_layers(model, X86).tensors)
    plan = make_plan(model, selection, ranges, JETSON)
    scales = implicit_scales(model, plan, ranges)
    assert set(plan.tensors) <= set(scales)
    assert {name: scales[name] for name in plan.tensors} == {name: grid.scale for name, grid in plan.tensors.items()}
    # c0 is never written: the ReLU behind it is. The heads' outputs have no scale, so that they stay in float.
    assert list(scales) == ["image", "c0", "r0", "p0", "c1", "r1", "c2", "s", "r2"]
    assert scales["c0"] == scales["r0"] == scales["p0"]
    assert scales["c2"] == ranges.threshold("c2") / 127
    assert scales["s"] == scales["r2"] == ranges.threshold("r2") / 127


def test_cache_before_a_silu_has_the_scale_behind_it():
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) g = Sigmoid(c) m = Mul(c, g)
        d = Conv<pads=[1,1,1,1]>(m, w1) r = Relu(d) y = Conv(r, hm_w) }"""
    model, x = nets.graph(text, WEIGHTS), nets.normal(9, 1, 3, 8, 8)
    ranges = ranges_for(model, x, select_layers(model, get_target("x86").rules).tensors)
    scales = implicit_scales(model, make_plan(model, select_layers(model, JETSON), ranges, JETSON), ranges)
    assert scales["c"] == scales["m"] == ranges.threshold("m") / 127
    assert scales["g"] == 1 / 127


def test_a_quantized_graph_without_ranges_for_its_outputs_leaves_them_out():
    text = "g (float[2,16] x) => (float[2,16] y) { y = MatMul(x, w) }"
    model = nets.graph(text, {"w": nets.normal(1, 16, 16)})
    ranges = ranges_of({"x": nets.normal(2, 2, 16)})
    plan = make_plan(model, select_layers(model, JETSON), ranges, JETSON)
    assert list(implicit_scales(model, plan, ranges)) == ["x"]
    insert_qdq(model, plan, JETSON)
    assert set(pairs(model)) == {"w", "x"}


# A spatial pyramid, as YOLOX has it (its second pool reads the map) and as YOLOv5 has it (it reads the first).
PYRAMID = """g (float[1,8,8,8] x) => (float[1,2,8,8] y) {
    c = Conv<pads=[1,1,1,1]>(x, w1) m = Relu(c)
    a = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(m) b = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(%SECOND%)
    j = Concat<axis=1>(m, a, b) d = Conv(j, w24) r = Relu(d) y = Conv(r, hm_w) }"""


@pytest.mark.parametrize(("second", "pooled"), [("m", {"m"}), ("a", {"m", "a"})])
def test_what_a_pyramid_pools_has_a_pair_under_strong_typing(second: str, pooled: set[str]) -> None:
    weights = {**WEIGHTS, "w24": nets.normal(7, 8, 24, 1, 1)}
    model, x = nets.graph(PYRAMID.replace("%SECOND%", second), weights), nets.normal(9, 1, 8, 8, 8)
    (before, _), (behind, _) = (quantized(model, x, get_target(f"jetson-orin{name}").rules) for name in ("", "-trt11"))
    assert pairs(behind).keys() - pairs(before).keys() == pooled
    np.testing.assert_array_equal(nets.run(behind, x)[0], nets.run(before, x)[0])
