"""New files: every operator that an older opset lacks, or writes differently, computes the same there."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from edgeq.errors import ModelError
from edgeq.exporting.graphs.digest import graph_digest
from edgeq.exporting.graphs.graph import opset_of, read_onnx, specs
from edgeq.exporting.graphs.interpolation import PLACES
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from tests.exporting import nets

TARGETS = (17, 18, 19)


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def lowered(model: ir.Model, opset: int) -> ir.Model:
    result = nets.copy(model)
    run_passes(result, reading(opset))
    assert opset_of(result) == opset
    onnx.checker.check_model(ir.to_proto(result))
    return result


def same(model: ir.Model, *inputs: np.ndarray, opset: int = 17, atol: float = 2e-6) -> ir.Model:
    """Asserts that a graph computes in another opset what ONNX Runtime makes of it in its own, and returns it."""
    result = lowered(model, opset)
    for one, other in zip(nets.run(result, *inputs), nets.run(model, *inputs), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.astype(np.float64), other.astype(np.float64), rtol=atol, atol=atol)
    return result


def parse(text: str, opset: int, weights: dict[str, np.ndarray] | None = None) -> ir.Model:
    model = nets.parse(f"g {text}", weights, opset=opset)
    for value in model.graph.outputs:
        value.shape = None
    return model


def inputs_of(model: ir.Model) -> list[np.ndarray]:
    return [
        nets.normal(seed, *(each or 1 for each in spec.shape)) for seed, spec in enumerate(specs(model.graph.inputs))
    ]


IMAGE = nets.normal(7, 1, 4, 6, 5)
PER_CHANNEL = {"gamma": nets.positive(0, 4), "beta": nets.normal(1, 4)}
ON_IMAGE = "(float[1,4,6,5] x) => (float[A,B,C,D] y) {{ {} }}"

ANTIALIAS = 'y = Resize<antialias=1,mode="linear">(x, , scales)'
RESIZE = 'y = Resize<{}="{}">(x, , , to)'
SYMMETRIC = RESIZE.format("coordinate_transformation_mode", "half_pixel_symmetric")
QUANTIZED = "q = QuantizeLinear<axis=0,output_dtype=2>(x, s) y = DequantizeLinear<axis=0>(q, s)"
NINE, SEVEN = {"to": np.array([9, 10])}, np.array(7, np.float32)

CASES: dict[str, tuple[int, str, dict[str, np.ndarray]]] = {
    "gelu": (20, "y = Gelu(x)", {}),
    "gelu_tanh": (21, 'y = Gelu<approximate="tanh">(x)', {}),
    "mish": (18, "y = Mish(x)", {}),
    "mish_22": (22, "y = Mish(x)", {}),
    "swish": (24, "y = Swish(x)", {}),
    "swish_alpha": (24, "y = Swish<alpha=1.702>(x)", {}),
    "hard_swish": (22, "y = HardSwish(x)", {}),
    "group_norm": (21, "y = GroupNormalization<num_groups=2,epsilon=0.001>(x, gamma, beta)", PER_CHANNEL),
    "layer_norm": (21, "y = LayerNormalization<axis=-1>(x, last)", {"last": nets.positive(0, 5)}),
    "rms_norm": (23, "y = RMSNormalization(x, last)", {"last": nets.positive(0, 5)}),
    "rms_norm_axis": (23, "y = RMSNormalization<axis=2,epsilon=0.01>(x, last)", {"last": nets.positive(0, 6, 5)}),
    "pad_axes": (21, "y = Pad(x, pads, , axes)", {"pads": np.array([1, 0, 2, 3]), "axes": np.array([-1, 1])}),
    "pad_axes_value": (19, "y = Pad(x, pads, v, axes)", {"pads": np.array([1, 2]), "v": SEVEN, "axes": np.array([2])}),
    "pad": (18, 'y = Pad<mode="reflect">(x, pads)', {"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "pad_wrap": (19, 'y = Pad<mode="wrap">(x, pads)', {"pads": np.array([0, 1, 1, 5, 0, 0, 2, 0])}),
    "reduce": (20, "y = ReduceMean<keepdims=1>(x, axes)", {"axes": np.array([2, -1])}),
    "reduce_noop": (18, "a = ReduceMax<noop_with_empty_axes=1>(x) y = Neg(a)", {}),
    "reduce_all": (20, "y = ReduceLogSumExp<noop_with_empty_axes=0>(x)", {}),
    "split": (20, "a, b, c = Split<axis=2,num_outputs=3>(x) s = Sub(a, c) y = Mul(s, b)", {}),
    "split_uneven": (20, "a, b = Split<axis=-1,num_outputs=2>(x) y = Concat<axis=3>(b, a)", {}),
    "resize_axes": (19, 'y = Resize<axes=[3,2],mode="linear">(x, , scales)', {"scales": f32(2, 1.5)}),
    "resize_sizes": (19, 'y = Resize<axes=[2,3],mode="cubic">(x, , , to)', {"to": np.array([9, 11])}),
    "resize_antialias_up": (18, ANTIALIAS, {"scales": f32(1, 1, 2, 2)}),
    "resize_larger": (18, RESIZE.format("axes=[2,3], keep_aspect_ratio_policy", "not_larger"), NINE),
    "resize_smaller": (18, RESIZE.format("axes=[2,3], keep_aspect_ratio_policy", "not_smaller"), NINE),
    "resize_symmetric": (19, SYMMETRIC, {"to": np.array([1, 4, 9, 10])}),
    "cast": (23, "i = Cast<to=6, saturate=1>(x) y = Cast<to=1>(i)", {}),
    "reshape": (21, "y = Reshape<allowzero=0>(x, to)", {"to": np.array([0, -1, 3])}),
    "average_pool": (22, "y = AveragePool<kernel_shape=[2,2],dilations=[1,1],ceil_mode=1>(x)", {}),
    "max_pool": (22, "y = MaxPool<kernel_shape=[3,3],dilations=[1,1],pads=[1,1,1,1],strides=[2,2]>(x)", {}),
    "crop": (18, "y = CenterCropPad<axes=[2,3]>(x, to)", {"to": np.array([3, 8])}),
    "crop_all": (20, "y = CenterCropPad(x, to)", {"to": np.array([1, 3, 9, 2])}),
    "constant_of_shape": (21, "s = Shape<start=1>(x) z = ConstantOfShape(s) y = Add(x, z)", {}),
    "einsum": (21, "y = Einsum<equation=\"bchw,dc->bdhw\">(x, m)", {"m": nets.normal(2, 3, 4)}),
    "bool_max": (20, "z = Greater(x, x) n = Not(z) m = ReduceMin<keepdims=1>(n) y = Cast<to=1>(m)", {}),
    "quantized": (21, QUANTIZED, {"s": f32(0.02)}),
    "scatter": (18, "y = ScatterND(x, at, with)", {"at": np.array([[0, 1]]), "with": nets.normal(1, 1, 6, 5)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_of_a_new_opset_computes_the_same(name):
    opset, text, weights = CASES[name]
    same(parse(ON_IMAGE.format(text), opset, weights), IMAGE, opset=17)


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(["linear", "nearest", "cubic"]), padding=st.sampled_from(["zeros", "border", "reflection"]),
    aligned=st.integers(0, 1), opset=st.sampled_from([20, 22]),
)  # fmt: skip
def test_a_grid_sample_keeps_its_mode(mode, padding, aligned, opset):
    text = f"""(float[2,3,5,6] x, float[2,4,3,2] grid) => (float[A,B,C,D] y) {{
        y = GridSample<mode="{mode}", padding_mode="{padding}", align_corners={aligned}>(x, grid)
    }}"""
    same(parse(text, opset), nets.normal(0, 2, 3, 5, 6), 0.8 * nets.normal(1, 2, 4, 3, 2), atol=1e-5)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("size", [[2, 1, 5, 4], [2, 1, 3, 5, 4]])
def test_an_affine_grid_is_a_product(size, aligned):
    rank = len(size) - 2
    text = (
        f"(float[2,{rank},{rank + 1}] x) => (float[A,B,C,D] y) {{ y = AffineGrid<align_corners={aligned}>(x, size) }}"
    )
    same(parse(text, 20, {"size": np.array(size)}), nets.normal(0, 2, rank, rank + 1))


@settings(max_examples=15, deadline=None)
@given(
    block=st.tuples(st.integers(1, 3), st.integers(1, 3)), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    pad=st.integers(0, 1), image=st.tuples(st.integers(6, 9), st.integers(6, 9)),
)  # fmt: skip
def test_columns_become_an_image(block, stride, dilation, pad, image):
    places = [
        (side + 2 * pad - dilation * (edge - 1) - 1) // stride + 1 for side, edge in zip(image, block, strict=True)
    ]
    shape = (2, 3 * block[0] * block[1], places[0] * places[1])
    text = f"""(float[{",".join(map(str, shape))}] x) => (float[A,B,C,D] y) {{
        y = Col2Im<strides=[{stride},{stride}], dilations=[{dilation},{dilation}], pads=[{pad},{pad},{pad},{pad}]>(
            x, i, b)
    }}"""
    same(parse(text, 18, {"i": np.array(image), "b": np.array(block)}), nets.normal(0, *shape))


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["linear", "cubic"]), place=st.sampled_from(sorted(PLACES)), antialias=st.booleans(),
    factors=st.tuples(*[st.sampled_from([0.3, 0.5, 0.75, 1.0, 1.6, 2.0])] * 2),
    by_size=st.booleans(), outside=st.booleans(),
)  # fmt: skip
def test_a_resize_that_an_opset_cannot_say_is_two_products(mode, place, antialias, factors, by_size, outside):
    attributes = f'mode="{mode}", coordinate_transformation_mode="{place}", antialias={int(antialias)}, axes=[2,3]'
    excluded = ", exclude_outside=1" if outside and (mode == "cubic" or antialias) else ""
    given, weights = ("x, , , to", {"to": np.array([7 * factors[0] + 1, 9 * factors[1]], np.int64)})
    if not by_size:
        given, weights = "x, , by", {"by": f32(*factors)}
    text = f"(float[1,2,7,9] x) => (float[A] y) {{ y = Resize<{attributes}{excluded}>({given}) }}"
    same(parse(text, 19, weights), nets.normal(0, 1, 2, 7, 9), atol=1e-5)


def test_a_group_norm_with_a_scale_per_group(tmp_path):
    """Its first version: ONNX declared it deprecated at once, and ONNX Runtime runs it."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[1,4,6,5] x, float[2] s, float[2] b) => (float[1,4,6,5] y) {
        y = GroupNormalization<num_groups=2>(x, s, b)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "group_norm.onnx")
    model = read_onnx(tmp_path / "group_norm.onnx")
    inputs = [IMAGE, nets.positive(1, 2), nets.normal(2, 2)]
    for opset in TARGETS:
        assert "GroupNormalization" not in nets.ops(same(model, *inputs, opset=opset))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", ["2,4,6", "2,4,3,2,2", "N,4,3,5"])
def test_a_group_norm_of_any_rank(dims, groups):
    text = f"(float[{dims}] x) => (float[A] y) {{ y = GroupNormalization<num_groups={groups}>(x, gamma, beta) }}"
    model = parse(text, 21, PER_CHANNEL)
    shape = [2 if each == "N" else int(each) for each in dims.split(",")]
    wanted = nets.run(model, nets.normal(0, *shape))[0]
    run_passes(model, reading(17, dynamic_batch=True))
    np.testing.assert_allclose(nets.run(model, nets.normal(0, *shape))[0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 3, 2)])
def test_a_group_norm_of_unknown_rank(shape):
    text = """(float[2,24] x, int64[4] lengths, bool[4] kept) => (float[48] y) { to = Compress(lengths, kept)
        r = Reshape(x, to) n = GroupNormalization<num_groups=2>(r, gamma, beta) y = Reshape(n, flat) }"""
    lengths = np.array([*shape, 1, 1][:4])
    kept = np.arange(4) < len(shape)
    model, x = parse(text, 21, PER_CHANNEL | {"flat": np.array([-1])}), nets.normal(0, 2, 24)
    assert "GroupNormalization" not in nets.ops(same(model, x, lengths, kept, opset=17))


@pytest.mark.parametrize("lengths", [(3, 8), (9, 2), (1, 12)])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("axes", ["<axes=[2,-1]>", ""])
def test_a_crop_or_pad_to_computed_lengths(axes, free, lengths):
    to = np.array(lengths if axes else (1, 3, *lengths))
    source = "s = Reshape(x, shape)" if free else "s = Neg(x)"
    text = f"""(float[1,4,6,5] x, int64[{to.size}] to, int64[4] shape) => (float y) {{ {source}
        y = CenterCropPad{axes}(s, to) }}"""
    model = parse(text, 18)
    assert "CenterCropPad" not in nets.ops(same(model, IMAGE, to, np.array([1, 4, 6, 5]), opset=17))


ATTENTIONS = {
    "plain": ("Attention(q, k, v)", {}),
    "scale": ("Attention<scale=0.3>(q, k, v)", {}),
    "cap": ("Attention<softcap=1.5>(q, k, v)", {}),
    "causal": ("Attention<is_causal=1>(q, k, v)", {}),
    "mask": ("Attention(q, k, v, m)", {"m": nets.normal(3, 5, 5)}),
    "hidden": ("Attention(q, k, v, m)", {"m": np.tri(5, dtype=bool)}),
    "nothing_left": ("Attention(q, k, v, m)", {"m": np.tri(5, k=-1, dtype=bool)}),
    "causal_and_hidden": ("Attention<is_causal=1>(q, k, v, m)", {"m": np.tri(5, dtype=bool)[::-1].copy()}),
    "precise": ("Attention<softmax_precision=11>(q, k, v)", {}),
}


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("opset", [23, 24])
def test_an_attention_is_two_products(name, opset):
    call, weights = ATTENTIONS[name]
    text = f"(float[2,3,5,4] q, float[2,3,5,4] k, float[2,3,5,6] v) => (float[A,B,C,D] y) {{ y = {call} }}"
    inputs = [nets.normal(seed, 2, 3, 5, size) for seed, size in ((0, 4), (1, 4), (2, 6))]
    reference_same(parse(text, opset, weights), *inputs)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]), flat=st.booleans(), causal=st.integers(0, 1), past=st.sampled_from([0, 2]),
    mode=st.integers(1, 3), cap=st.sampled_from([0.0, 2.0]), masked=st.booleans(),
)  # fmt: skip
def test_an_attention_shares_heads_and_remembers(groups, flat, causal, past, mode, cap, masked):
    before = f", float[1,{groups},{past},4] pk, float[1,{groups},{past},6] pv" if past else ""
    shape = "1,5,{}" if flat else "1,{},5,{}"
    sizes = [
        shape.format(heads * size) if flat else shape.format(heads, size)
        for heads, size in ((4, 4), (groups, 4), (groups, 6))
    ]
    mask = f", float[1,1,5,{5 + past}] m"
    heads = f"q_num_heads=4, kv_num_heads={groups}, " if flat else ""
    text = f"""(float[{sizes[0]}] q, float[{sizes[1]}] k, float[{sizes[2]}] v{mask if masked else ""}{before})
    => (float[A] y, float[A] nk, float[A] nv, float[A] w) {{
        y, nk, nv, w = Attention<{heads}is_causal={causal}, softcap={cap}, qk_matmul_output_mode={mode}>(
            q, k, v, {"m" if masked else ""}, {"pk, pv" if past else ","})
    }}"""
    model = parse(text, 23)
    reference_same(model, *inputs_of(model))


@settings(max_examples=25, deadline=None)
@given(flat=st.booleans(), interleaved=st.integers(0, 1), partial=st.sampled_from([0, 4]), positions=st.booleans())
def test_a_rotary_embedding_turns_the_same(flat, interleaved, partial, positions):
    half = (partial or 8) // 2
    dims, cache = ("2,5,24" if flat else "2,3,5,8"), ("9," if positions else "2,5,")
    heads = "num_heads=3, " if flat else ""
    text = f"""(float[{dims}] x, float[{cache}{half}] c, float[{cache}{half}] s) => (float[A] y) {{
        y = RotaryEmbedding<{heads}interleaved={interleaved}, rotary_embedding_dim={partial}>(
            x, c, s{", p" if positions else ""})
    }}"""
    model = parse(text, 23, {"p": np.arange(10).reshape(2, 5) % 9} if positions else {})
    reference_same(model, *inputs_of(model))


@settings(max_examples=10, deadline=None)
@given(
    group=st.sampled_from([1, 2]), offsets=st.sampled_from([1, 2]),
    stride=st.integers(1, 2), dilation=st.integers(1, 2),
    kernel=st.sampled_from([(3, 3), (1, 2)]), biased=st.booleans(), masked=st.booleans(),
)  # fmt: skip
def test_a_deformable_convolution_samples_first(group, offsets, stride, dilation, kernel, biased, masked):
    taps, sides = kernel[0] * kernel[1], (7, 6)
    places = [(side + 2 - dilation * (edge - 1) - 1) // stride + 1 for side, edge in zip(sides, kernel, strict=True)]
    text = f"""(float[2,4,7,6] x, float[2,{offsets * taps * 2},{places[0]},{places[1]}] o,
        float[2,{offsets * taps},{places[0]},{places[1]}] m) => (float[A] y) {{
        y = DeformConv<group={group}, offset_group={offsets}, strides=[{stride},{stride}], pads=[1,1,1,1],
            dilations=[{dilation},{dilation}], kernel_shape=[{kernel[0]},{kernel[1]}]>(
            x, w, o, {"b" if biased else ""}, {"m" if masked else ""})
    }}"""
    model = parse(text, 19, {"w": nets.normal(8, 6, 4 // group, *kernel), "b": nets.normal(9, 6)})
    same(model, *inputs_of(model), atol=2e-5)


def test_half_precision_is_normalised_in_float():
    for opset, call in ((23, "RMSNormalization(x, w)"), (21, "GroupNormalization<num_groups=2>(x, w, b)")):
        text = f"(float16[1,4,6,4] x) => (float16[A] y) {{ y = {call} }}"
        weights = {"w": nets.positive(0, 4).astype(np.float16), "b": nets.normal(1, 4).astype(np.float16)}
        x = (300 * nets.normal(2, 1, 4, 6, 4)).astype(np.float16)
        same(parse(text, opset, weights), x, atol=2e-3)


def reference_same(model: ir.Model, *inputs: np.ndarray, atol: float = 2e-6) -> None:
    """Asserts that a graph computes in opset 17 what onnx.reference makes of it."""
    session = ReferenceEvaluator(ir.to_proto(model))
    names = [str(value.name) for value in model.graph.inputs]
    wanted = session.run(None, dict(zip(names, inputs, strict=True)))
    for one, other in zip(nets.run(lowered(model, 17), *inputs), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=atol, atol=atol)


def test_one_calibration_serves_all_targets():
    """What opset 17 lacks is written out in 18 and 19 as well, so that the graph has one digest."""
    for text in ("y = Mish(x)", "y = CenterCropPad<axes=[2,3]>(x, to)", "y = Gelu(x)", "y = HardSwish(x)"):
        model = parse(ON_IMAGE.format(text), 22, {"to": np.array([3, 8])})
        assert len({graph_digest(lowered(model, opset)) for opset in TARGETS}) == 1


def test_a_gelu_becomes_what_onnxruntime_fuses(tmp_path):
    graph = same(parse("(float[2,8] x) => (float[2,8] y) { y = Gelu(x) }", 20), nets.normal(0, 2, 8), opset=18)
    run_passes(graph, SIMPLIFYING)
    assert nets.operators_in_onnxruntime(graph, tmp_path) == {"Gelu": 1}


def test_operators_in_a_branch_are_lowered():
    text = """(float[2,4] x) => (float[2,4] y) {
        s = ReduceSum<keepdims=0>(x) zero = Constant<value = float {0.0}>() big = Greater(s, zero)
        y = If(big) <then_branch = t () => (float[2,4] u) { u = Gelu(x) },
                     else_branch = e () => (float[2,4] v) { m = ReduceMean(x, axes) v = Sub(x, m) }>
    }"""
    for sign in (1, -1):
        same(parse(text, 20, {"axes": np.array([1])}), sign * np.abs(nets.normal(0, 2, 4)), opset=17)


def test_a_file_version_of_its_time():
    model = parse("(float[2,4] x) => (float[2,4] y) { y = Swish(x) }", 24)
    model.ir_version = 13
    assert lowered(model, 18).ir_version == 10


REFUSED = [
    (20, "y = GridSample(v, g)", "GridSample samples volumes, which opsets below 20 cannot say; give `opset` 20"),
    (23, "y = ReduceMean(x, a)", "ReduceMean has computed axes"),
    (18, 'y = ScatterND<reduction="max">(x, at, with)', "ScatterND keeps the largest"),
    (22, "y = AveragePool<kernel_shape=[2,2],dilations=[2,2]>(x)", "AveragePool has dilations"),
    (24, "b = Cast<to=17>(x) y = Cast<to=1>(b)", "Cast takes no float8e4m3fn in opset 17"),
    (26, "y = CumProd(x, axis)", "CumProd is an operator since opset 26; .* export the model for opset 17"),
]


@pytest.mark.parametrize(("opset", "text", "message"), REFUSED)
def test_what_has_no_equivalent_is_one_line(opset, text, message):
    weights = {"at": np.array([[0, 1]]), "with": nets.normal(1, 1, 6, 5), "axis": np.array(1)}
    model = parse(
        f"(float[1,4,6,5] x, float[1,1,3,3,3] v, float[1,2,2,2,3] g, int64[1] a) => (float[A] y) {{ {text} }}",
        opset,
        weights,
    )
    with pytest.raises(ModelError, match=message) as refused:
        lowered(model, 17)
    assert "\n" not in str(refused.value)
    assert "node '" in str(refused.value)
