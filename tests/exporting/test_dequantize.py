"""Quantized graphs of torch, TensorRT's tools and ONNX Runtime become float graphs that keep their scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.calibration.source import CalibrationSource
from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.graphs.end_specs import end_specs
from edgeq.exporting.graphs.quantized import quantization_of
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.dequantize import dequantize
from edgeq.exporting.passes.real_tensors import TakenScales
from edgeq.inputs import items_of
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_image
from edgeq.verbs.export import export_model
from tests.exporting import nets

X = np.abs(nets.normal(0, 1, 3, 8, 8)) / 3
STEP = 1 / 64

EXACT = ExportOptions(isa="vnni")
"""For CPUs whose sums do not saturate: for others scales are enlarged, the taken ones too."""


def _integers(seed: int, *shape: int, bits: int = 8) -> np.ndarray:
    most = 2 ** (bits - 1) - 1
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.int8)


def _f(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


U0, U128, I0 = np.array(0, np.uint8), np.array(128, np.uint8), np.array(0, np.int8)
PER_CHANNEL = (np.arange(1, 5) / 512).astype(np.float32)

# torch.ao and its kind: unsigned activations, weights of int8 with a scale for each channel, biases of int32.
TORCH = (
    """g (float[1,3,8,8] x) => (float[1,2,4,4] y) {
    xq = QuantizeLinear(x, sx, u0)  xd = DequantizeLinear(xq, sx, u0)
    wd = DequantizeLinear<axis=0>(w, sw, zw)  bd = DequantizeLinear<axis=0>(b, sb)
    c = Conv<pads=[1,1,1,1]>(xd, wd, bd)  r = Relu(c)
    rq = QuantizeLinear(r, sr, u0)  rd = DequantizeLinear(rq, sr, u0)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(rd)
    vd = DequantizeLinear(v, sv, i0)
    e = Conv<pads=[1,1,1,1]>(p, vd)
    eq = QuantizeLinear(e, se, u128)  ed = DequantizeLinear(eq, se, u128)
    ud = DequantizeLinear(u, sv, i0)
    y = Conv(ed, ud)
}""",
    {
        "sx": _f(STEP),
        "u0": U0,
        "i0": I0,
        "u128": U128,
        "w": _integers(1, 4, 3, 3, 3),
        "sw": PER_CHANNEL,
        "zw": np.zeros(4, np.int8),
        "b": np.arange(-2, 2, dtype=np.int32) * 900,
        "sb": PER_CHANNEL * np.float32(STEP),
        "sr": _f(1 / 50),
        "v": _integers(2, 4, 4, 3, 3, bits=7),
        "sv": _f(1 / 300),
        "se": _f(1 / 20),
        "u": _integers(3, 2, 4, 1, 1),
    },
)

# TensorRT's: int8 around zero, float weights behind a pair, and pairs before the layers alone.
TENSORRT = (
    """g (float[1,3,8,8] x) => (float[1,2,8,8] y) {
    xq = QuantizeLinear(x, sx, i0)  xd = DequantizeLinear(xq, sx, i0)
    wq = QuantizeLinear<axis=0>(w, sw, zw)  wd = DequantizeLinear<axis=0>(wq, sw, zw)
    c = Conv<pads=[1,1,1,1]>(xd, wd, b)  r = Relu(c)
    rq = QuantizeLinear(r, sr, i0)  rd = DequantizeLinear(rq, sr, i0)
    vq = QuantizeLinear<axis=0>(v, sw, zw)  vd = DequantizeLinear<axis=0>(vq, sw, zw)
    e = Conv<pads=[1,1,1,1]>(rd, vd)  s = Relu(e)
    y = Conv(s, u)
}""",
    {
        "sx": _f(STEP),
        "i0": I0,
        "w": nets.normal(1, 4, 3, 3, 3) / 8,
        "sw": PER_CHANNEL,
        "zw": np.zeros(4, np.int8),
        "b": nets.normal(2, 4),
        "sr": _f(1 / 40),
        "v": nets.normal(3, 4, 4, 3, 3) / 8,
        "u": nets.normal(4, 2, 4, 1, 1),
    },
)

# ONNX Runtime's QOperator format: no float inside, a MaxPool of integers, ReLUs that the ranges stand for.
QOPERATOR = (
    """g (float[1,3,8,8] x) => (float[1,4,4,4] y, float[1,4] z) {
    xq = QuantizeLinear(x, sx, u0)
    r = QLinearConv<pads=[1,1,1,1]>(xq, sx, u0, w, sw, zw, sr, u0, b)
    k = QLinearConv<pads=[1,1,1,1]>(r, sr, u0, v, sv, i0, six, u0)
    a = com.microsoft.QLinearAdd(r, sr, u0, k, six, u0, sa, u0)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    q = com.microsoft.QLinearConcat<axis=1>(sc, u0, p, sa, u0, p, sa, u0)
    f, g = Split<axis=1>(q, halves)
    y = DequantizeLinear(f, sc, u0)
    m = com.microsoft.QLinearGlobalAveragePool<channels_last=0>(g, sc, u0, sm, u0)
    t = Reshape(m, shape)
    l = QLinearMatMul(t, sm, u0, n, sv, i0, sl, u128)
    o = com.microsoft.QGemm<transB=1>(l, sl, u128, h, sw, zw, d, sz, u128)
    s = com.microsoft.QLinearSigmoid(o, sz, u128, ss, u0)
    j = com.microsoft.QLinearSoftmax<axis=-1, opset=13>(s, ss, u0, ss, u0)
    z = DequantizeLinear(j, ss, u0)
}""",
    {
        "sx": _f(STEP),
        "u0": U0,
        "u128": U128,
        "i0": I0,
        "w": _integers(1, 4, 3, 3, 3),
        "sw": PER_CHANNEL,
        "zw": np.zeros(4, np.int8),
        "sr": _f(1 / 50),
        "b": np.arange(-2, 2, dtype=np.int32) * 900,
        "v": _integers(2, 4, 4, 3, 3),
        "sv": _f(1 / 300),
        "six": _f(6 / 255),
        "sa": _f(1 / 25),
        "sc": _f(1 / 24),
        "halves": np.array([4, 4]),
        "sm": _f(1 / 30),
        "shape": np.array([1, 4]),
        "n": _integers(5, 4, 4),
        "sl": _f(1 / 30),
        "h": _integers(6, 4, 4),
        "d": np.arange(4, dtype=np.int32) * 100,
        "sz": _f(1 / 30),
        "ss": _f(1 / 255),
    },
)

# Integers at both ends.
ENDS = (
    """g (uint8[1,3,8,8] x) => (int8[1,2,8,8] y) {
    xd = DequantizeLinear(x, sx, u7)
    wd = DequantizeLinear<axis=0>(w, sw, zw)
    c = Conv<pads=[1,1,1,1]>(xd, wd)  r = Relu(c)
    rq = QuantizeLinear(r, sr, u0)  rd = DequantizeLinear(rq, sr, u0)
    ud = DequantizeLinear(u, sv, i0)
    e = Conv(rd, ud)
    y = QuantizeLinear(e, se, i0)
}""",
    {
        "sx": _f(STEP),
        "u7": np.array(7, np.uint8),
        "u0": U0,
        "i0": I0,
        "w": _integers(1, 4, 3, 3, 3),
        "sw": PER_CHANNEL,
        "zw": np.zeros(4, np.int8),
        "sr": _f(1 / 50),
        "u": _integers(3, 2, 4, 1, 1),
        "sv": _f(1 / 300),
        "se": _f(1 / 20),
    },
)


def _save(folder: Path, net: tuple[str, dict[str, np.ndarray]], opset: int = 13) -> Path:
    text, weights = net
    domains = f'"" : {opset}' + (', "com.microsoft" : 1' if "com.microsoft" in text else "")
    proto = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{domains}]> {text}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(proto, folder / "net.onnx")
    (folder / "preset.toml").write_text('[preprocessing]\nresize = "stretch"\n')
    return folder / "net.onnx"


def _opened(path: Path) -> tuple[ir.Model, TakenScales]:
    model = ir.load(path)
    clean(model)
    taken = TakenScales()
    assert dequantize(model, taken).changed
    return model, taken


def _request(path: Path, opset: int = 18, *, take_scales: bool = True) -> ModelRequest:
    return ModelRequest(str(path), preset=str(path.with_name("preset.toml")), opset=opset, take_scales=take_scales)


@pytest.mark.parametrize(("net", "steps"), [(TORCH, 3), (TENSORRT, 3), (QOPERATOR, 6)])
def test_the_float_graph_computes_what_the_file_does_within_its_steps(net, steps, tmp_path):
    path = _save(tmp_path, net)
    model, taken = _opened(path)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(nets.ops(model))
    assert quantization_of(model) is None
    coarsest = max(found.width for found in taken.tensors.values()) / 255
    for got, want in zip(nets.run(model, X), nets.run(ir.load(path), X), strict=True):
        assert np.abs(got - want).max() < steps * coarsest
        assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > 0.99


def test_ranges_and_weights_are_those_of_the_file(tmp_path):
    _, taken = _opened(_save(tmp_path, TORCH))
    assert list(taken.tensors) == ["x", "r", "e"]
    assert taken.tensors["r"].low == 0 and taken.tensors["r"].high == pytest.approx(255 / 50)
    signed = taken.tensors["e"]
    assert (signed.low, signed.high, signed.threshold) == pytest.approx((-128 / 20, 127 / 20, 127 / 20))
    scales, axis = taken.weights["wd"]
    assert axis == 0 and (scales == PER_CHANNEL).all()
    _, taken = _opened(_save(tmp_path, TENSORRT))
    assert taken.tensors["r"].threshold == pytest.approx(127 / 40)


def test_a_range_that_begins_at_zero_takes_the_place_of_a_relu(tmp_path):
    model, taken = _opened(_save(tmp_path, QOPERATOR))
    assert nets.ops(model).count("Relu") == 2  # the first convolution's, and the sum's: a sum may be anything
    (clip,) = [node for node in model.graph if node.op_type == "Clip"]
    ends = [value.const_value.numpy().item() for value in clip.inputs[1:] if value is not None and value.const_value]
    assert ends == [0, 6]
    assert taken.tensors["r_real_relu"].high == pytest.approx(255 / 50)


def test_ends_of_integers_stay(tmp_path):
    path = _save(tmp_path, ENDS)
    model, taken = _opened(path)
    assert nets.ops(model) == ["DequantizeLinear", "Conv", "Relu", "Conv", "QuantizeLinear"]
    (image,), (output,) = end_specs(model)
    assert (image.dtype, image.scale, image.zero_point) == ("uint8", STEP, 7)
    assert output.dtype == "int8" and output.scale == pytest.approx(1 / 20)
    assert set(taken.tensors) >= {"xd", "r", "e"}
    given = open_artifact(path)
    assert given.inputs == (image,) and given.outputs == (output,)
    encoded = image.encode(X)
    (want,) = nets.run(ir.load(path), encoded)
    (got,) = nets.run(model, encoded)
    assert got.dtype == np.int8 and np.abs(got.astype(int) - want).max() <= 1


def _scales(path: Path) -> dict[str, np.ndarray]:
    """Returns tensor -> scale of the QuantizeLinear that reads it."""
    graph = onnx.load(path).graph
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return {node.input[0]: arrays[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("target", ["x86", "jetson-orin"])
@pytest.mark.parametrize("name", ["TORCH", "TENSORRT", "QOPERATOR", "ENDS"])
def test_files_have_the_scales_of_the_file(name, target, tmp_path):
    path = _save(tmp_path, {"TORCH": TORCH, "TENSORRT": TENSORRT, "QOPERATOR": QOPERATOR, "ENDS": ENDS}[name])
    rules = get_target(target).rules
    options = None if target == "jetson-orin" else EXACT
    result = export_model(_request(path, rules.opset), target, ["fp32", "int8"], tmp_path / "out", options=options)
    artifact = next(file.artifact for file in result.files if file.artifact.precision == "int8")
    assert artifact.quantization["method"] == "taken" and artifact.quantization["int8_nodes"] > 0
    _, taken = _opened(path)
    found = _scales(artifact.path)
    ours = {tensor: scale for tensor, scale in found.items() if tensor in taken.tensors}
    assert ours
    for tensor, scale in ours.items():
        held = taken.tensors[tensor]
        symmetric = rules.symmetric or held.high == held.threshold
        steps = {held.threshold / 127} if symmetric else set()
        steps |= set() if rules.symmetric else {(held.high - held.low) / 255}
        assert any(scale == pytest.approx(step, rel=1e-5) for step in steps), tensor
    (image,) = artifact.inputs
    for got, want in zip(
        nets.run(ir.load(artifact.path), image.encode(X)), nets.run(ir.load(path), image.encode(X)), strict=True
    ):
        # A grid around zero has half the steps for what has no negative numbers.
        least = 50 if rules.symmetric or rules.output_pairs == "none" else 300
        assert (want.astype(np.float64) ** 2).sum() > least * ((got - want.astype(np.float64)) ** 2).sum()


def test_integers_of_weights_are_those_of_the_file(tmp_path):
    path = _save(tmp_path, TORCH)
    (file,) = export_model(_request(path), "x86", ["int8"], tmp_path / "out", options=EXACT).files
    arrays = [onnx.numpy_helper.to_array(each) for each in onnx.load(file.artifact.path).graph.initializer]
    for name in ("w", "v"):  # of `v` one scale is for all channels, none of which reaches its end
        assert any(array.dtype == np.int8 and np.array_equal(array, TORCH[1][name]) for array in arrays)
    biases = [array for array in arrays if array.dtype == np.int32]
    assert any(np.abs(array - TORCH[1]["b"]).max() <= 1 for array in biases)


def test_a_cache_holds_the_scales_too(tmp_path):
    path = _save(tmp_path, TENSORRT)
    request = _request(path, get_target("jetson-orin").rules.opset)
    export_model(request, "jetson-orin", ["fp32", "int8"], tmp_path / "out")
    (cache,) = (tmp_path / "out").glob("*.cache")
    bits = dict(line.split(": ") for line in cache.read_text().splitlines()[1:])
    scales = {name: float(np.uint32(int(value, 16)).view(np.float32)) for name, value in bits.items()}
    assert scales["x"] == pytest.approx(STEP) and scales["r"] == pytest.approx(1 / 40)


def test_ranges_from_two_places_are_refused(tmp_path):
    calibration = CalibrationSource(list(items_of([draw_image(1, 0).pixels], 1)))
    with pytest.raises(InputError, match="`calib`: with `take_scales` the ranges are those of the model's file"):
        export_model(_request(_save(tmp_path, TORCH)), "x86", ["int8"], tmp_path / "out", calibration=calibration)


def test_a_layer_without_a_scale_stays_in_float(tmp_path):
    request = _request(_save(tmp_path, TENSORRT))
    (file,) = export_model(request, "x86-ort", ["int8"], tmp_path / "out", options=EXACT).files
    reasons = file.artifact.quantization["float_nodes"]
    assert file.artifact.quantization["int8_nodes"] == 1
    assert sorted(reason.partition("'")[0].strip() for reason in reasons.values()) == [
        "kept by",
        "last convolution of a head",
    ]
    assert any("the scales of the file, which has none for it" in reason for reason in reasons.values())


DYNAMIC = (
    """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
    xq, s, z = DynamicQuantizeLinear(x)
    c = ConvInteger<pads=[1,1,1,1]>(xq, w, z)
    f = Cast<to=1>(c)
    y = Mul(f, s)
}""",
    {"w": _integers(1, 4, 3, 3, 3)},
)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (TORCH, r"net.onnx: is quantized already \(Q/DQ: 3 DequantizeLinear, 3 QuantizeLinear\); give the float model"),
        (
            QOPERATOR,
            r"already \(QOperator: 2 QLinearConv, 1 QGemm, 1 QLinearAdd.*`take_scales`.*edgeq bench and edgeq eval",
        ),
        (DYNAMIC, r"is quantized already \(dynamic INT8: 1 ConvInteger, 1 DynamicQuantizeLinear\)"),
    ],
)
def test_quantized_files_are_refused_in_words(net, message, tmp_path):
    path = _save(tmp_path, net)
    with pytest.raises(ModelError, match=message):
        open_model(_request(path, take_scales=False))


def test_what_has_no_scales_to_take_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"`take_scales` takes those of .*, and this is dynamic INT8"):
        open_model(_request(_save(tmp_path, DYNAMIC)))
    plain: tuple[str, dict[str, np.ndarray]] = ("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }", {})
    with pytest.raises(InputError, match=r"`take_scales`: net\.onnx computes in float"):
        open_model(_request(_save(tmp_path, plain)))
    with pytest.raises(InputError, match=r"`take_scales`: .* is not an ONNX file"):
        export_model(ModelRequest("resnet18", take_scales=True), "x86", ["fp32"], tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "weights", "message"),
    [
        (
            "m = ReduceMax<keepdims=0>(x) q = QuantizeLinear(x, m, u0) y = DequantizeLinear(q, m, u0)",
            {"u0": U0},
            "reads a scale that is computed at every run",
        ),
        (
            "q = QuantizeLinear<axis=1>(x, s, z) y = DequantizeLinear<axis=1>(q, s, z)",
            {"s": _f(0.1, 0.2, 0.3), "z": np.zeros(3, np.int8)},
            "tensor 'x' has a scale for each channel",
        ),
        (
            "q = QuantizeLinear(x, s, z) c = Cast<to=6>(q) a = Add(c, c) d = Cast<to=1>(a) y = Mul(d, s)",
            {"s": _f(0.1), "z": I0},
            "Cast '.*' computes with integers",
        ),
    ],
)
def test_graphs_whose_scales_cannot_be_taken(body, weights, message, tmp_path):
    net = f"g (float[1,3,8,8] x) => (float[1,3,8,8] y) {{ {body} }}", weights
    with pytest.raises(EdgeqError, match=message):
        open_model(_request(_save(tmp_path, net)))


def test_weights_of_integers_alone_make_no_quantized_model(tmp_path):
    net = (
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { wd = DequantizeLinear(w, s) y = Conv<pads=[1,1,1,1]>(x, wd) }",
        {"w": _integers(1, 4, 3, 3, 3), "s": _f(0.01)},
    )
    assert quantization_of(ir.load(_save(tmp_path, net))) is None
    assert quantization_of(ir.load(_save(tmp_path, DYNAMIC))) == "dynamic INT8: 1 ConvInteger, 1 DynamicQuantizeLinear"
