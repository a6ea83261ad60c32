from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import MismatchError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.passes.conv_transpose import rewrite_conv_transpose
from edgeq.exporting.planning.keep import Kept, resolve_keep
from edgeq.exporting.planning.plan import QuantPlan, make_plan
from edgeq.exporting.planning.selection import select_layers
from edgeq.schemes import FLOAT32, UINT8, PerAxis, PerTensor
from edgeq.targets import Rules, get_target
from tests.exporting import nets
from tests.exporting.test_topology import RESIDUAL_DETECTOR, TENSORRT_LIKE, WEIGHTS, X86

pytestmark = pytest.mark.kernels

SYMMETRIC = X86.changed(activation=dataclasses.replace(UINT8, symmetric=True))
X86_ORT = get_target("x86-ort").rules


def ranges_of(arrays: Mapping[str, np.ndarray], method: str = "minmax") -> Ranges:
    histograms = {name: Histogram.of(array) for name, array in arrays.items()}
    provenance = Provenance.of(model_digest="m", preprocessing_digest="p", image_digests=["i"], tool_version="t")
    return Ranges.from_histograms(histograms, provenance, method)


def ranges_for(model: ir.Model, inputs: np.ndarray, names: tuple[str, ...]) -> Ranges:
    observed = nets.copy(model)
    values = {value.name: value for node in observed.graph for value in node.outputs}
    for name in names:
        if name in values and not values[name].is_graph_output():
            observed.graph.outputs.append(values[name])
    arrays = dict(zip([value.name for value in observed.graph.outputs], nets.run(observed, inputs), strict=True))
    arrays[str(model.graph.inputs[0].name)] = inputs
    return ranges_of({name: arrays[name] for name in names})


def quantized(model: ir.Model, inputs: np.ndarray, rules: Rules) -> tuple[ir.Model, QuantPlan]:
    selection = select_layers(model, rules)
    plan = make_plan(model, selection, ranges_for(model, inputs, selection.tensors), rules)
    result = nets.copy(model)
    insert_qdq(result, plan, rules)
    return result, plan


@pytest.mark.parametrize("rules", [X86, TENSORRT_LIKE, SYMMETRIC])
def test_quantized_detector_computes_nearly_the_same_and_every_tensor_has_one_pair(rules: Rules) -> None:
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    result, plan = quantized(model, x, rules)
    pairs = [node.inputs[0] for node in result.graph if node.op_type == "QuantizeLinear"]
    assert sorted(str(value.name) for value in pairs if value is not None) == sorted(plan.tensors)
    for optimize in (False, True):
        for got, want in zip(nets.run(result, x, optimize=optimize), nets.run(model, x), strict=True):
            assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.999
            assert np.abs(got - want).max() < 0.06 * np.abs(want).max()


def test_grids_follow_the_rules() -> None:
    model, x = nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16)
    asymmetric, symmetric, signed = (quantized(model, x, rules)[1].tensors for rules in (X86, SYMMETRIC, TENSORRT_LIKE))
    assert (asymmetric["r0"].zero_point, asymmetric["r0"].dtype) == (0, "uint8")
    # All 255 steps lie between the ends, and zero is one of them.
    grid = asymmetric["image"]
    low, high = -grid.zero_point * grid.scale, (255 - grid.zero_point) * grid.scale
    assert low == pytest.approx(x.min(), abs=grid.scale) and high == pytest.approx(x.max(), abs=grid.scale)
    assert symmetric["image"].zero_point == 128
    assert symmetric["image"].scale == pytest.approx(np.abs(x).max() / 127, rel=1e-5)
    dequantized = {name: (grid.zero_point, grid.dtype) for name, grid in signed.items()}
    assert dequantized["image"][1] == "int8"


def test_moved_values_keep_their_grid() -> None:
    _, plan = quantized(nets.graph(RESIDUAL_DETECTOR, WEIGHTS), nets.normal(9, 1, 3, 16, 16), X86)
    assert plan.tensors["p0"] == plan.tensors["r0"]
    assert plan.tensors["r0"] != plan.tensors["r1"]


def test_weights_are_per_channel_int8_and_biases_int32_where_wanted() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) {
        c = Conv<pads=[1,1,1,1]>(x, w0, b) r = Relu(c) y = Conv(r, hm_w) }"""
    model, x = nets.graph(text, WEIGHTS | {"b": nets.normal(7, 8)}), nets.normal(9, 1, 3, 8, 8)
    result, plan = quantized(model, x, X86)
    initializers = {name: constant(value) for name, value in result.graph.initializers.items()}
    weight, scale = initializers["w0_quantized"], initializers["w0_scale"]
    assert weight is not None and scale is not None
    assert weight.dtype == np.int8 and scale.shape == (8,)
    assert np.abs(weight).reshape(8, -1).max(axis=1).tolist() == [127] * 8
    bias, bias_scale = initializers["b_quantized"], initializers["b_scale"]
    assert bias is not None and bias_scale is not None
    assert bias.dtype == np.int32
    np.testing.assert_allclose(bias_scale, scale * np.float32(plan.tensors["x"].scale), rtol=1e-6)
    unbiased = quantized(model, x, X86.changed(bias=FLOAT32))[0]
    kept = constant(unbiased.graph.initializers["b"])
    assert kept is not None and kept.dtype == np.float32


def test_a_channel_of_tiny_weights_keeps_its_bias() -> None:
    """Its natural bias grid, input scale times weight scale, would put the bias beyond int32."""
    w = nets.normal(1, 4, 3, 1, 1)
    w[2] *= 1e-12
    b = np.array([0.5, -0.25, 3.0, 1.0], np.float32)
    text = "g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv(x, w, b) r = Relu(c) y = Conv(r, v) }"
    model, x = nets.graph(text, {"w": w, "b": b, "v": nets.normal(2, 2, 4, 1, 1)}), nets.normal(9, 1, 3, 8, 8)
    result, _ = quantized(model, x, X86)
    np.testing.assert_allclose(nets.run(result, x)[0], nets.run(model, x)[0], atol=0.1)


@pytest.mark.parametrize(
    ("layer", "shape", "zeros"),
    [
        ("Conv<pads=[1,1,1,1]>", (4, 4, 3, 3), (0, 3)),
        ("Conv<pads=[1,1,1,1], group=4>", (4, 1, 3, 3), (3,)),
        ("ConvTranspose", (4, 4, 1, 1), (3,)),
        ("Gemm<transB=1>", (4, 4), (0, 3)),
    ],
)
def test_optimized_onnxruntime_computes_a_kept_layer_in_float(
    layer: str, shape: tuple[int, ...], zeros: tuple[int, ...]
) -> None:
    """Its optimizer WeightBiasQuantization rounds float weights between two pairs, with one scale for all channels.

    The largest weight meets zeros alone, so nothing of the others may be lost by it.
    """
    image, other = ("1,4", "Gemm") if layer.startswith("Gemm") else ("1,4,8,8", "Conv")
    text = f"""g (float[{image}] x) => (float[{image}] y, float[{image}] z) {{ a = {other}(x, v) y = Softplus(a)
        c = {layer}(x, w) r = Relu(c) q = {other}(r, v) z = Softplus(q) }}"""
    w, x = nets.normal(3, *shape), nets.normal(9, *map(int, image.split(",")))
    w[zeros], x[:, 3] = 1000, 0
    model = nets.graph(text, {"w": w, "v": nets.normal(2, 4, 4, *(1 for _ in x.shape[2:]))})
    kept = next(node for node in model.graph if node.outputs[0].name == "c")
    rules = dataclasses.replace(X86_ORT, output_pairs="none")  # the layers before Softplus are INT8 too
    selection = select_layers(model, rules, resolve_keep(model, [str(kept.name)]))
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), rules)
    assert {"x", "r"} <= plan.tensors.keys() and kept.name in plan.in_float
    reference = nets.run(model, x)[1]
    insert_qdq(model, plan, rules)
    np.testing.assert_allclose(nets.run(model, x, optimize=True)[1], reference, atol=0.05 * np.abs(reference).max())


@pytest.mark.parametrize(("per_channel", "shape"), [(True, (6,)), (False, ())])
def test_conv_transpose_weights(per_channel: bool, shape: tuple[int, ...]) -> None:
    text = """g (float[1,4,5,5] x) => (float[1,2,10,10] y) { c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w)
        r = Relu(c) y = Conv(r, v) }"""
    weights = {"w": nets.normal(1, 4, 6, 4, 4), "v": nets.normal(2, 2, 6, 1, 1)}
    model, x = nets.graph(text, weights), nets.normal(9, 1, 4, 5, 5)
    static = X86.static("ConvTranspose")
    assert static is not None
    granularity = PerAxis() if per_channel else PerTensor()
    scheme = dataclasses.replace(static, weight=static.weight.along(granularity))
    rules = dataclasses.replace(X86, schemes={**X86.schemes, "ConvTranspose": (scheme,)})
    result, _ = quantized(model, x, rules)
    scale = constant(result.graph.initializers["w_scale"])
    assert scale is not None and scale.shape == shape
    want = nets.run(model, x)[0]
    assert np.abs(nets.run(result, x)[0] - want).max() < 0.05 * np.abs(want).max()


def test_rewritten_deconvolution_takes_its_ranges_from_the_tensor_that_remains() -> None:
    text = """g (float[1,4,5,5] x) => (float[1,2,10,10] y) { c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w)
        r = Relu(c) y = Conv(r, v) }"""
    model = nets.graph(text, {"w": nets.normal(1, 4, 6, 4, 4), "v": nets.normal(2, 2, 6, 1, 1)})
    x = nets.normal(9, 1, 4, 5, 5)
    ranges = ranges_for(model, x, select_layers(model, X86).tensors)
    want = nets.run(model, x)[0]
    rewrite_conv_transpose(model)
    plan = make_plan(model, select_layers(model, X86_ORT), ranges, X86_ORT)
    insert_qdq(model, plan, X86_ORT)
    assert [name for name in plan.tensors if name != "x"] == ["node_1_phases"]
    assert plan.tensors["node_1_phases"].scale == pytest.approx(ranges.interval("r")[1] / 255)
    assert np.abs(nets.run(model, x, optimize=True)[0] - want).max() < 0.05 * np.abs(want).max()


def test_onnxruntime_runs_what_its_plan_has_in_int8_and_no_more(tmp_path) -> None:
    text = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w0) s = Sigmoid(c) m = Mul(c, s)
        d = Conv<pads=[1,1,1,1]>(m, w1) r = Relu(d) y = Conv(r, hm_w) }"""
    model, x = nets.graph(text, WEIGHTS), nets.normal(9, 1, 3, 8, 8)
    result, plan = quantized(model, x, X86_ORT)
    assert len(plan.quantized) == 1
    assert nets.operators_in_onnxruntime(result, tmp_path)["QLinearConv"] == 1


def test_a_tensor_without_range_is_a_mismatch() -> None:
    model = nets.graph(RESIDUAL_DETECTOR, WEIGHTS)
    with pytest.raises(MismatchError, match="no interval for tensor"):
        make_plan(model, select_layers(model, X86), ranges_of({"image": nets.normal(1, 10)}), X86)


JOINED = """g (float[1,3,8,8] x) => (float[1,2,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, wa) ra = Relu(a)
    b = Conv<pads=[1,1,1,1]>(x, wb) rb = Relu(b) j = Concat<axis=1>(ra, rb)
    c = Conv(j, wc) rc = Relu(c) y = Conv(rc, wy) }"""


def joined_weights(factor: float) -> dict[str, np.ndarray]:
    return {
        "wa": nets.normal(1, 4, 3, 3, 3), "wb": nets.normal(2, 4, 3, 3, 3) * np.float32(factor),
        "wc": nets.normal(3, 4, 8, 1, 1), "wy": nets.normal(4, 2, 4, 1, 1),
    }  # fmt: skip


def test_inputs_of_a_concat_share_one_grid() -> None:
    _, plan = quantized(nets.graph(JOINED, joined_weights(2)), nets.normal(9, 1, 3, 8, 8), X86)
    assert plan.notes == ()
    assert plan.tensors["ra"] == plan.tensors["rb"] == plan.tensors["j"]


def test_mixed_ranges_are_split_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """Boxes in pixels beside scores in 0..1 on one grid: every score rounds to zero, and so does every detection."""
    model, x = nets.graph(JOINED, joined_weights(300)), nets.normal(9, 1, 3, 8, 8)
    with caplog.at_level(logging.WARNING, logger="edgeq"):
        result, plan = quantized(model, x, X86)
    assert len(plan.notes) == 1 and "mixed ranges" in plan.notes[0] and plan.notes[0] in caplog.text
    assert "j" not in plan.tensors
    assert plan.tensors["rb"].scale > 8 * plan.tensors["ra"].scale
    reader = next(decision for decision in plan.decisions if "'j'" in decision.reason)
    assert reader.is_float
    want = nets.run(model, x)[0]
    assert np.abs(nets.run(result, x)[0] - want).max() < 0.05 * np.abs(want).max()


def test_a_file_whose_only_int8_layer_reads_mixed_ranges_is_float() -> None:
    """The search tries each layer alone; FastestDet's Conv_231 ended with a traceback."""
    model = nets.graph(JOINED, joined_weights(300))
    convs = [str(node.name) for node in model.graph if node.op_type == "Conv"]
    x, kept = nets.normal(9, 1, 3, 8, 8), Kept({"others": (*convs[:2], convs[3])})
    selection = select_layers(model, X86, kept)
    assert selection.quantized == {convs[2]}
    plan = make_plan(model, selection, ranges_for(model, x, selection.tensors), X86)
    assert (plan.quantized, dict(plan.tensors), dict(plan.tied)) == (frozenset(), {}, {})


def test_mixed_ranges_on_one_grid_would_lose_the_small_input() -> None:
    """The counter-example: what the split protects from."""
    model, x = nets.graph(JOINED, joined_weights(300)), nets.normal(9, 1, 3, 8, 8)
    _, plan = quantized(model, x, X86)
    small = ranges_for(model, x, ("ra",)).interval("ra")[1]
    assert small < plan.tensors["rb"].scale * 4


def test_zero_activations_give_valid_grids() -> None:
    x = np.zeros((1, 3, 16, 16), np.float32)
    result, plan = quantized(nets.graph(RESIDUAL_DETECTOR, WEIGHTS), x, X86)
    assert all(grid.scale > 0 and np.isfinite(grid.scale) for grid in plan.tensors.values())
    assert all(np.isfinite(output).all() for output in nets.run(result, x))
