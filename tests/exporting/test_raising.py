"""Old files: every operator that a newer opset writes differently computes what it did, in ONNX Runtime, before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import opset_of, read_onnx
from edgeq.exporting.passes.order import reading, run_passes
from tests.exporting import nets


def raised(model: ir.Model, opset: int = 18) -> ir.Model:
    result = nets.copy(model)
    run_passes(result, reading(opset))
    assert opset_of(result) == opset
    onnx.checker.check_model(ir.to_proto(result))
    return result


def same(model: ir.Model, *inputs: np.ndarray, opsets: tuple[int, ...] = (18,), rtol: float = 0.0) -> None:
    """Asserts that a graph computes the same in other opsets; bit for bit, unless a decomposition rounds."""
    wanted = nets.run(model, *inputs)
    for opset in opsets:
        for one, other in zip(nets.run(raised(model, opset), *inputs), wanted, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


BATCHNORM = {name: nets.positive(seed, 3) for seed, name in enumerate(("gamma", "beta", "mean", "var"))}
PER_ELEMENT = {name: nets.positive(seed, 3, 4, 5) for seed, name in enumerate(("gamma", "beta", "mean", "var"))}

DEEP = nets.normal(3, 3, 3, 5, 1)
ONE_HOT = "r = ReduceSum<axes=[1,2,3],keepdims=0>(x) z = Cast<to=7>(r) y = OneHot(z, d, v)"
ROI_ALIGN = "y = RoiAlign<output_height=2,output_width=2,sampling_ratio=2>(x, rois, at)"
TRANSPOSED = "y = ConvTranspose<strides=[2,2],output_padding=[1,1]>(x, w)"

CASES: dict[str, tuple[int, str, dict[str, np.ndarray]]] = {
    "clip": (7, "y = Clip<min=-0.5,max=0.75>(x)", {}),
    "clip_below": (10, "y = Clip<min=0.0>(x)", {}),
    "dropout": (7, "d = Dropout<ratio=0.3>(x) y = Relu(d)", {}),
    "dropout_mask": (10, "d, mask = Dropout<ratio=0.3>(x) y = Neg(d)", {}),
    "pad_constant": (9, "y = Pad<mode=\"constant\", pads=[0,0,1,2,0,1,0,3], value=-1.5>(x)", {}),
    "pad_edge": (10, "y = Pad<mode=\"edge\", pads=[0,0,1,2,0,0,0,3]>(x)", {}),
    "pad_reflect": (7, "y = Pad<mode=\"reflect\", pads=[0,0,1,2,0,0,2,3]>(x)", {}),
    "pad_negative": (10, "y = Pad<pads=[0,0,-1,0,0,0,-1,2]>(x)", {}),
    "slice": (9, "y = Slice<starts=[1,-3], ends=[3,2147483647], axes=[1,3]>(x)", {}),
    "slice_without_axes": (7, "y = Slice<starts=[0,1], ends=[1,2]>(x)", {}),
    "topk": (9, "v, i = TopK<axis=-1,k=2>(x) j = Cast<to=1>(i) y = Add(v, j)", {}),
    "squeeze": (11, "u = Unsqueeze<axes=[0,-1]>(x) s = Squeeze<axes=[0]>(u) y = Squeeze(s)", {}),
    "reduce": (11, "m = ReduceMean<axes=[-1],keepdims=1>(x) s = ReduceSum<axes=[1,2],keepdims=1>(x) y = Mul(m, s)", {}),
    "reduce_all": (12, "a = ReduceMax(x) b = ReduceL2<axes=[2],keepdims=1>(x) y = Add(a, b)", {}),
    "split": (11, "a, b = Split<axis=1,split=[1,2]>(x) y = Concat<axis=1>(b, a)", {}),
    "split_evenly": (12, "a, b = Split<axis=2>(x) y = Sub(b, a)", {}),
    "batchnorm": (7, "y = BatchNormalization<epsilon=0.001>(x, gamma, beta, mean, var)", BATCHNORM),
    "batchnorm_spatial": (7, "y = BatchNormalization<spatial=1>(x, gamma, beta, mean, var)", BATCHNORM),
    "upsample": (7, "y = Upsample<mode=\"nearest\", scales=[1.0,1.0,2.0,3.0]>(x)", {}),
    "upsample_linear": (8, "y = Upsample<mode=\"linear\", scales=[1.0,1.0,2.0,1.5]>(x)", {}),
    "upsample_9": (9, "y = Upsample<mode=\"nearest\">(x, scales)", {"scales": f32(1, 1, 1.5, 2)}),
    "resize_10": (10, "y = Resize<mode=\"linear\">(x, scales)", {"scales": f32(1, 1, 0.5, 2.2)}),
    "scatter": (10, "y = Scatter<axis=3>(x, at, with)", {"at": np.zeros((1, 3, 4, 1), int), "with": DEEP[:1, :, :4]}),
    "cast": (8, "i = Cast<to=6>(x) y = Cast<to=1>(i)", {}),
    "one_hot": (9, ONE_HOT, {"d": np.array([4]), "v": f32(0, 1)}),
    "gemm": (7, "f = Flatten(x) y = Gemm<transB=1>(f, w, b)", {"w": nets.normal(1, 4, 60), "b": nets.normal(2, 4)}),
    "prelu": (7, "y = PRelu(x, slope)", {"slope": nets.normal(1, 3, 1, 1)}),
    "roi_align": (10, ROI_ALIGN, {"rois": f32(0, 0, 3, 3).reshape(1, 4), "at": np.array([0])}),
    "max_pool": (7, "y = MaxPool<kernel_shape=[2,2],strides=[2,2],pads=[1,0,0,1]>(x)", {}),
    "average_pool": (7, "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(x)", {}),
    "sum": (8, "y = Sum(x, x, w)", {"w": nets.normal(1, 1, 3, 1, 1)}),
    "instance_norm": (7, "y = InstanceNormalization(x, gamma, beta)", BATCHNORM),
    "lrn": (7, "y = LRN<size=3>(x)", {}),
    "depth_to_space": (9, "s = SpaceToDepth<blocksize=1>(x) y = DepthToSpace<blocksize=1>(s)", {}),
    "conv_transpose": (7, TRANSPOSED, {"w": nets.normal(1, 3, 2, 3, 3)}),
    "reshape": (7, "y = Reshape(x, to)", {"to": np.array([0, -1, 5])}),
    "argmax": (7, "a = ArgMax<axis=1>(x) y = Cast<to=1>(a)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_of_an_old_opset_computes_the_same(name):
    opset, text, weights = CASES[name]
    model = nets.parse(f"g (float[1,3,4,5] x) => (float[A,B,C,D] y) {{ {text} }}", weights, opset=opset)
    model.graph.outputs[0].shape = None
    same(model, nets.normal(7, 1, 3, 4, 5), rtol=1e-6 if "norm" in name or "average" in name else 0)


def test_a_scale_per_element_is_decomposed():
    text = "g (float[2,3,4,5] x) => (float[2,3,4,5] y) { y = BatchNormalization<spatial=0>(x, gamma, beta, mean, var) }"
    x = nets.normal(7, 2, 3, 4, 5)
    found = nets.run(raised(nets.parse(text, PER_ELEMENT, opset=8)), x)[0]
    each = PER_ELEMENT
    wanted = (x - each["mean"]) / np.sqrt(each["var"] + 1e-5) * each["gamma"] + each["beta"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), operator=st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]), opset=st.integers(7, 12))
def test_a_softmax_goes_over_all_axes_behind_its_own(data, operator, opset):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=2, max_size=4))
    axis = data.draw(st.integers(-len(shape) if opset >= 11 else 0, len(shape) - 1))
    dims = ",".join("N" if not place and data.draw(st.booleans()) else str(dim) for place, dim in enumerate(shape))
    text = f"g (float[{dims}] x) => (float[{dims}] y) {{ y = {operator}<axis={axis}>(x) }}"
    x = nets.normal(data.draw(st.integers(0, 99)), *shape)
    model = nets.parse(text, opset=opset)
    wanted = nets.run(model, x)[0]
    run_passes(model, reading(18, dynamic_batch=True))
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, rtol=1e-6, atol=1e-6)


def test_a_softmax_over_one_axis_stays_one_operator():
    for dims, axis in (("2,5", 1), ("2,5,1,1", 1), ("1,3,4", -1)):
        opset = 12 if axis < 0 else 9
        text = f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Softmax<axis={axis}>(x) }}"
        assert nets.ops(raised(nets.parse(text, opset=opset))) == ["Softmax"]


@settings(max_examples=40, deadline=None)
@given(
    factors=st.tuples(*[st.sampled_from([0.3, 0.4, 0.5, 0.75, 1.0, 1.3, 1.5, 2.0, 2.7])] * 2),
    mode=st.sampled_from(["nearest", "linear"]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)
def test_a_first_resize_takes_the_same_pixels(factors, mode, size):
    text = f'g (float[1,2,{size[0]},{size[1]}] x) => (float[A,B,C,D] y) {{ y = Resize<mode="{mode}">(x, scales) }}'
    model = nets.parse(text, {"scales": f32(1, 1, *factors)}, opset=10)
    same(model, nets.normal(1, 1, 2, *size))


def test_weights_among_the_inputs_are_constants():
    """As Caffe2, MXNet and PyTorch wrote until IR version 3, in any order."""
    text = """g (float[4,3,3,3] w0, float[N,3,H,W] x, float[4] b0) => (float[N,4,H,W] y) {
        y = Conv<pads=[1,1,1,1]>(x, w0, b0)
    }"""
    proto = ir.to_proto(nets.parse(text, {"w0": nets.normal(0, 4, 3, 3, 3), "b0": nets.normal(1, 4)}, opset=7))
    proto.ir_version = 3
    model = ir.from_proto(proto)
    wanted = nets.run(model, nets.normal(2, 1, 3, 6, 7))[0]
    run_passes(model, reading(18, (6, 7)))
    assert [value.name for value in model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(nets.run(model, nets.normal(2, 1, 3, 6, 7))[0], wanted)


@pytest.mark.parametrize(("of_nodes", "of_file"), [("", "ai.onnx"), ("ai.onnx", "ai.onnx"), ("ai.onnx", "")])
def test_the_default_domain_may_be_written_out(of_nodes, of_file, tmp_path):
    text = """g (float[1,6] x) => (float[1,6] y) {
        s = ReduceSum<axes=[0,1], keepdims=0>(x) zero = Sub(s, s) big = Greater(s, zero)
        y = If(big) <then_branch = t () => (float[1,6] u) { u = Clip<max=0.5>(x) },
                     else_branch = e () => (float[1,6] v) { v = Abs(x) }>
    }"""
    proto = ir.to_proto(nets.parse(text, opset=9))
    wanted = nets.run(ir.from_proto(proto), nets.normal(1, 1, 6))[0]
    branches = [each.g for node in proto.graph.node for each in node.attribute if each.g.node]
    for node in (node for graph in (proto.graph, *branches) for node in graph.node):
        node.domain = of_nodes
    proto.opset_import[0].domain = of_file
    onnx.save(proto, tmp_path / "net.onnx")
    np.testing.assert_array_equal(nets.run(raised(read_onnx(tmp_path / "net.onnx")), nets.normal(1, 1, 6))[0], wanted)


@pytest.mark.parametrize("opset", [1, 6])
def test_operators_before_opset_7_broadcast_from_an_axis(opset):
    """ONNX Runtime starts at opset 7, so numpy says what is right."""
    old = ", consumed_inputs=[0,0]" if opset < 6 else ""
    text = f"""g (float[2,3,4,5] x) => (float[2,3,4,5] y) {{
        a = Add<broadcast=1, axis=1{old}>(x, b) m = Mul<broadcast=1{old}>(a, last)
        s = Sub<broadcast=1, axis=2{old}>(m, inner)
        y = PRelu(s, slope)
    }}"""
    arrays = {"b": nets.normal(0, 3), "last": nets.normal(1, 5), "inner": nets.normal(2, 4), "slope": nets.normal(3, 3)}
    x = nets.normal(4, 2, 3, 4, 5)
    summed = (x + arrays["b"][:, None, None]) * arrays["last"] - arrays["inner"][:, None]
    wanted = np.where(summed < 0, summed * arrays["slope"][:, None, None], summed)
    np.testing.assert_allclose(nets.run(raised(nets.parse(text, arrays, opset=opset)), x)[0], wanted, rtol=1e-6)


def test_forms_before_opset_7():
    text = """g (float[1,2,4,4] x) => (float[A,B,C,D] y) {
        p = Pad<paddings=[0,0,1,0,0,0,0,1]>(x)
        u = Upsample<height_scale=2.0, width_scale=2.0, mode="nearest">(p)
        r = Reshape<shape=[1,2,10,10]>(u)
        c = Concat(r, r)
        d = Dropout<is_test=1>(c)
        i = Cast<to="INT32">(d)
        f = Cast<to="FLOAT">(i)
        a, b = Split<axis=1, split=[1,3]>(f)
        n = BatchNormalization<is_test=1, consumed_inputs=[0,0,0,1,1]>(b, gamma, beta, mean, var)
        y = Selu(n)
    }"""
    x = (9 * nets.normal(4, 1, 2, 4, 4)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 1)))
    doubled = np.trunc(np.concatenate([padded.repeat(2, 2).repeat(2, 3)] * 2, axis=1))[:, 1:]
    gamma, beta, mean, var = (BATCHNORM[name][:, None, None] for name in ("gamma", "beta", "mean", "var"))
    normed = ((doubled - mean) / np.sqrt(var + 1e-5) * gamma + beta).astype(np.float64)
    wanted = 1.0507 * np.where(normed > 0, normed, 1.6732 * (np.exp(np.minimum(normed, 0)) - 1))
    found = nets.run(raised(nets.parse(text, BATCHNORM, opset=1)), x)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_subgraphs_and_functions_are_raised_too():
    text = """<ir_version: 8, opset_import: ["" : 11, "local" : 1]>
    g (float[1,6] x) => (float[1,6] y) {
        s = ReduceSum<keepdims=0>(x) zero = Constant<value = float {0.0}>() big = Greater(s, zero)
        h = If(big) <then_branch = t () => (float[1,6] u) { u = Clip(x, zero) },
                     else_branch = e () => (float[1,6] v) { m = ReduceSum<axes=[1], keepdims=1>(x) v = Add(x, m) }>
        y = local.centred(h)
    }
    <domain: "local", opset_import: ["" : 9]>
    centred (a) => (b) { m = ReduceMean<axes=[1]>(a) c = Sub(a, m) b = Clip<min=-1.0, max=1.0>(c) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    for sign in (1, -1):
        x = np.full((1, 6), sign, np.float32) + f32(0, 1, 0, -1, 0.5, 0)
        inner = x.clip(0) if sign > 0 else x + x.sum()
        wanted = (inner - inner.mean()).clip(-1, 1)
        np.testing.assert_allclose(nets.run(raised(model), x)[0], wanted, rtol=1e-6, atol=1e-6)


def test_statistics_of_a_batch_are_dropped_where_nothing_reads_them():
    text = """g (float[1,3,4,5] x) => (OUT) {
        y, m, v, sm, sv = BatchNormalization(x, gamma, beta, mean, var)
    }"""
    model = nets.parse(text.replace("OUT", "float[1,3,4,5] y"), BATCHNORM, opset=9)
    each = {name: array[:, None, None] for name, array in BATCHNORM.items()}
    x = nets.normal(7, 1, 3, 4, 5)
    wanted = (x - each["mean"]) / np.sqrt(each["var"] + 1e-5) * each["gamma"] + each["beta"]
    np.testing.assert_allclose(nets.run(raised(model), x)[0], wanted, rtol=1e-4, atol=1e-5)
    read = nets.parse(text.replace("OUT", "float[1,3,4,5] y, float[3] sm"), BATCHNORM, opset=9)
    with pytest.raises(ModelError, match=r"BatchNormalization gives the statistics .* evaluation mode"):
        raised(read)


def test_names_of_the_graph_are_not_taken():
    text = """g (float[1,3,4,5] x) => (float[1,3,4,5] y) {
        y_constant = Abs(x) y_constant_1 = Neg(x) s = Add(y_constant, y_constant_1) y = Clip<min=-0.5,max=0.5>(s)
    }"""
    same(nets.parse(text, opset=9), nets.normal(7, 1, 3, 4, 5))


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        ("y = ATen<operator=\"roll\">(x)", 9, "node .*: ATen is not an ONNX operator"),
        ("y = Scale<scale=2.0>(x)", 6, "node .*: Scale is not an ONNX operator"),
        ("y = Crop<border=[1,1,1,1]>(x)", 6, "node .*: Crop is not an ONNX operator"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_one_line(text, opset, message):
    model = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["" : {opset}]> g (float[1,3,4,5] x) => (float[1,3,4,5] y) {{ {text} }}'
    )
    with pytest.raises(ModelError, match=message) as refused:
        raised(ir.from_proto(model))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("opset", "text"),
    [
        (16, 'y = GridSample<mode="bicubic", align_corners=1>(x, g)'),
        (17, "r = Unsqueeze(x, a) d = DFT<axis=2>(r) y = ReduceMax<axes=[0]>(d)"),
        (17, "i, j = Split<axis=1>(x) m = ReduceMean<axes=[2]>(i) y = Add(j, m)"),
        (13, "y = Resize<mode=\"linear\">(x, , s)"),
    ],
)  # fmt: skip
def test_an_operator_computes_the_same_in_a_new_opset(opset, text):
    weights = {"g": 0.5 * nets.normal(1, 1, 3, 3, 2), "a": np.array([-1]), "s": f32(1, 1, 2, 1.5)}
    model = nets.parse(f"g (float[1,4,4,5] x) => (float[A,B,C,D] y) {{ {text} }}", weights, opset=opset)
    model.graph.outputs[0].shape = None
    same(model, nets.normal(7, 1, 4, 4, 5), opsets=(19, 21, 23))
