"""Files with weights of few bits: what they hold by the specification of each form, and what real engines compute."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeq.calibration.quantize_layers import quantize_layers
from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.onnx.low_bit import write_low_bit
from edgeq.exporting.onnx.writer import FloatModel, write_fp32
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.planning.keep import Kept
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.runtimes import choose_runtimes, is_installed, open_session
from edgeq.schemes import PerGroup, Scheme
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.export_options import check_options
from tests.exporting import nets

X86, ORT = get_target("x86"), get_target("x86-ort")
NET = """g (float[5,64] x) => (float[5,16] y) {
    a = MatMul(x, wa) b = Add(a, ba) r = Relu(b)
    c = Gemm<transB=1>(r, wc, bc) s = Relu(c) t = MatMul(s, wt) y = Gemm(t, wy, by) }"""
SHAPES = {"wa": (64, 96), "ba": (96,), "wc": (40, 96), "bc": (40,), "wt": (40, 64), "wy": (64, 16), "by": (16,)}
CONVOLUTIONS = """g (float[1,3,8,8] x) => (float[1,16,8,8] y) {
    a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, w1, b1) s = Relu(b)
    d = Conv<pads=[1,1,1,1], group=16>(s, w2) y = Conv(d, w3) }"""
KERNELS = {
    "w0": (16, 3, 3, 3),
    "b0": (16,),
    "w1": (16, 16, 3, 3),
    "b1": (16,),
    "w2": (16, 1, 3, 3),
    "w3": (16, 16, 1, 1),
}


def model_of(text: str, shapes: dict[str, tuple[int, ...]], opset: int = 18) -> FloatModel:
    weights = {name: nets.normal(seed, *shape) / 8 for seed, (name, shape) in enumerate(shapes.items())}
    graph = nets.parse(text, weights, opset=opset)
    clean(graph)
    return FloatModel("net", graph, Preprocessing(height_px=8, width_px=8))


@pytest.fixture(scope="module")
def model() -> FloatModel:
    return model_of(NET, SHAPES)


def computed(artifact: Artifact, runtime: str, x: np.ndarray) -> np.ndarray:
    with open_session(artifact, runtime, threads=1) as session:
        return session.run({"x": x})["y"]


def by_hand(bits: int, size: int, whole: bool) -> np.ndarray:
    """Returns what the net computes with weights rounded to nearest, in float64."""
    weights = {name: nets.normal(seed, *shape) / 8 for seed, (name, shape) in enumerate(SHAPES.items())}
    scheme = Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(size, 1))
    for name in ("wa", "wc", "wt", "wy"):
        matrix = weights[name] if name == "wc" else weights[name].T
        at_end = name in ("wa", "wy") and bits < 4  # the first and the last layer
        if not at_end and (matrix.shape[1] % size == 0 or not whole):
            matrix = round_nearest(matrix, scheme, {}).dequantize()
        weights[name] = matrix.T
    x = nets.normal(9, 5, 64).astype(np.float64)
    b = np.maximum(x @ weights["wa"] + weights["ba"], 0)
    s = np.maximum(b @ weights["wc"] + weights["bc"], 0)
    return s @ weights["wt"] @ weights["wy"] + weights["by"]


def unpacked(array: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Returns the integers of bytes along the last axis, the first in the lowest bits (MatMulNBits, com.microsoft)."""
    parts = [array >> (bits * place) & (2**bits - 1) for place in range(8 // bits)]
    return np.stack(parts, axis=-1).reshape(*array.shape[:-1], -1)[..., :count]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnxruntimes_operator_holds_the_nearest_integers_padded_to_whole_groups(bits, model, tmp_path):
    written = write_low_bit(model, ORT, tmp_path, f"w{bits}")
    graph = onnx.load(written.path).graph
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(nodes) == (2 if bits == 2 else 4) and {node.domain for node in nodes} == {"com.microsoft"}
    (node,) = (each for each in nodes if held[each.input[1]].shape[0] == 64)  # wt, of 40 inputs
    attributes = {each.name: each.i for each in node.attribute}
    assert attributes == {"K": 40, "N": 64, "bits": bits, "block_size": 32, "accuracy_level": 4}
    matrix = (nets.normal(4, 40, 64) / 8).T
    wanted = round_nearest(matrix, Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(32, 1)), {})
    integers, scale, zero = (held[name] for name in node.input[1:])
    assert integers.shape == (64, 2, 32 * bits // 8)
    np.testing.assert_array_equal(unpacked(integers, bits, 32).reshape(64, 64)[:, :40], wanted.integers)
    np.testing.assert_array_equal(unpacked(zero.reshape(64, -1), bits, 2), wanted.zero_point)
    np.testing.assert_array_equal(scale.reshape(64, 2), wanted.scale)
    x = nets.normal(9, 5, 64)
    hand = by_hand(bits, 32, whole=False)
    assert np.abs(computed(written, "onnxruntime", x) - hand).max() < 0.03 * np.abs(hand).max()  # inputs of 8 bits


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_keeps_the_integers_of_a_dequantize_linear(bits, model, tmp_path):
    written = write_low_bit(model, X86, tmp_path, f"w{bits}")
    assert written.quantization_facts.float_nodes and written.quantization_facts.low_bit is not None
    assert list(written.quantization_facts.float_nodes.values()) == ["its 40 inputs are no multiple of groups of 32"]
    x, hand = nets.normal(9, 5, 64), by_hand(bits, 32, whole=True)
    assert np.abs(computed(written, "onnxruntime", x) - hand).max() < 0.03 * np.abs(hand).max()
    if not is_installed("openvino"):
        pytest.skip("openvino is not installed")
    assert np.abs(computed(written, "openvino", x) - hand).max() < 0.03 * np.abs(hand).max()
    import openvino

    compiled = openvino.Core().compile_model(str(written.path), "CPU")
    kinds = [
        str(node.input(1).get_element_type())
        for node in compiled.get_runtime_model().get_ordered_ops()
        if node.get_input_size() > 1 and node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    stored = {4: "u4", 8: "u8"}[bits]
    assert sum(stored in kind or f"uint{bits}" in kind for kind in kinds) == 3, kinds


def test_bits_and_groups_without_a_kernel_are_simulated_and_never_timed(model, tmp_path):
    for target, precision, size in ((X86, "w3", 32), (X86, "w2", 32), (ORT, "w4", 8), (ORT, "w7", None)):
        written = write_low_bit(model, target, tmp_path, precision, group_size=size)
        assert written.precision == f"simulated-{precision}" and choose_runtimes(written) == ["simulated-narrow"]
        hand = by_hand(int(precision[1]), size or 32, whole=False)
        np.testing.assert_allclose(computed(written, "simulated-narrow", nets.normal(9, 5, 64)), hand, atol=1e-5)
        assert written.quantization_facts.low_bit is not None and written.quantization_facts.low_bit.form == "float"


def test_convolutions_are_stored_in_few_bits_and_computed_as_before(tmp_path):
    model = model_of(CONVOLUTIONS, KERNELS)
    x = nets.normal(9, 1, 3, 8, 8)
    for target in (X86, ORT):
        wanted = computed(write_fp32(model, target, tmp_path), "onnxruntime", x)
        written = write_low_bit(model, target, tmp_path, "w8", group_size=16)
        facts = written.quantization_facts
        assert facts.low_bit is not None and (facts.low_bit.nodes, facts.low_bit.convolutions) == (2, 2)
        reasons = sorted(facts.float_nodes.values())
        assert reasons == [f"its {width} inputs are no multiple of groups of 16" for width in (27, 9)]
        for runtime in ("onnxruntime", *(["openvino"] if is_installed("openvino") else [])):
            found = computed(written, runtime, x)
            assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max(), (target.name, runtime)
    graph = onnx.load(write_low_bit(model, ORT, tmp_path, "w4", group_size=16).path)
    kinds = {each.data_type for each in graph.graph.initializer}
    assert onnx.TensorProto.UINT4 in kinds
    assert operators_left(tmp_path, graph) == {"Conv": 4}, "the engine computes the weights when it loads the file"


def operators_left(folder, proto) -> dict[str, int]:
    """Returns how many operators are left after ONNX Runtime's optimizations, those of layout aside."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    counts: dict[str, int] = {}
    for node in onnx.load(folder / "optimized.onnx").graph.node:
        name = node.op_type.replace("Fused", "")
        counts[name] = counts.get(name, 0) + 1
    return {name: count for name, count in counts.items() if not name.startswith("Reorder")}


NORMED = """g (float[1,6,32] x) => (float[1,6,8] y) {
    n = LayerNormalization<axis=-1>(x, gamma, beta) a = MatMul(n, wa) b = MatMul(n, wb) p = Mul(a, b)
    y = MatMul(p, wy) }"""
NORMED_SHAPES = {"gamma": (32,), "beta": (32,), "wa": (32, 32), "wb": (32, 32), "wy": (32, 8)}


def test_awqs_scales_go_into_the_layernorm_or_the_convolution_before_and_else_into_a_mul(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for text, shapes, shape, folded, multiplied in (
        (NORMED, NORMED_SHAPES, (1, 6, 32), 1, 1),
        (CONVOLUTIONS, KERNELS, (1, 3, 8, 8), 2, 1),
    ):
        model = model_of(text, shapes)
        feeds = [{"x": nets.normal(seed, *shape) * np.exp(nets.normal(1, *shape))} for seed in range(20, 30)]
        quantize = partial(quantize_layers, method="awq", feeds=feeds, threads=1)
        written = write_low_bit(model, ORT, tmp_path, "w5", group_size=8, quantize=quantize)
        facts = written.quantization_facts.low_bit
        assert facts is not None and (facts.folded, facts.multiplied) == (folded, multiplied)
        plain = write_low_bit(model, ORT, tmp_path / "plain", "w5", group_size=8)
        wanted = [computed(write_fp32(model, ORT, tmp_path), "onnxruntime", feed["x"]) for feed in feeds]
        errors = [
            sum(np.square(computed(file, "simulated-narrow", feed["x"]) - value).sum()
                for feed, value in zip(feeds, wanted, strict=True))
            for file in (written, plain)
        ]  # fmt: skip
        assert errors[0] < errors[1]


def test_what_cannot_be_quantized_is_named(model, tmp_path):
    with pytest.raises(ModelError, match=r"no layer of the model can have weights of 4 bits: .* choose another"):
        names = tuple(str(node.name) for node in model.graph.graph)
        write_low_bit(model, X86, tmp_path, "w4", kept=Kept({"all": names}))
    request = ModelRequest("net.onnx", opset=18)
    for options, message in (
        (ExportOptions(group_size=24), "`group_size` 24: wanted one of 8, 16, 32"),
        (ExportOptions(weight_method="adaround"), "`weight_method` adaround: wanted one of rtn, hqq"),
        (ExportOptions(weight_method="awq"), "`weight_method` awq: goes by what the layers read; give `calib`"),
    ):
        with pytest.raises(InputError, match=message):
            check_options(request, X86, ("onnx",), ("w4",), None, options)
    with pytest.raises(InputError, match=r"`group_size`: changes w2, .* and fp32 is asked for"):
        check_options(request, X86, ("onnx",), ("fp32",), None, ExportOptions(group_size=32))
    with pytest.raises(InputError, match="`group_size`: INT4 weights for rtx are in groups of 32"):
        check_options(ModelRequest("net.onnx", opset=19), get_target("rtx"), ("onnx",), ("w4",), None,
                      ExportOptions(group_size=64))  # fmt: skip
    with pytest.raises(InputError, match=r"`precision` w3: .* engines of jetson-orin"):
        check_options(request, get_target("jetson-orin"), ("onnx",), ("w3",), None, ExportOptions())
