"""Weights of 4 bits in blocks: against numpy by the ONNX specification, in ONNX Runtime, and in NVIDIA's compiler.

INT4 with scales in FP16 is the precision `w4`; FP4 with scales in FP8, and one in FP16 for these, `fp4` (NVFP4).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.weight_only import write_weight_only
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.planning.keep import Kept
from edgeq.exporting.tensorrt.check import check_graph
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.runtimes import open_session
from edgeq.runtimes.observer import ExactObserver
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.check_compile import compile_artifacts, default_gpu
from edgeq.verbs.export_options import check_options
from tests.exporting import nets
from tests.runtimes.tensorrt.test_compile import needs_library

RTX = get_target("rtx")
BLOCK = 32
NET = """g (float[5,64] x) => (float[5,16] y) {
    a = MatMul(x, wa) b = Add(a, ba) r = Relu(b)
    c = Gemm<transB=1>(r, wc, bc) s = Relu(c) t = MatMul(s, wt) y = Gemm(t, wy) }"""
CONVOLUTION = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { y = Conv(x, w) }"
SPEC = Preprocessing(height_px=8, width_px=8)


@pytest.fixture(scope="module")
def weights():
    shapes = {"wa": (64, 96), "ba": (96,), "wc": (40, 96), "bc": (40,), "wt": (40, 64), "wy": (64, 16)}
    found = {name: nets.normal(seed, *shape) / 8 for seed, (name, shape) in enumerate(shapes.items())}
    found["wa"][:32, 3] = 0  # a block without a scale of its own
    return found


def model_of(text, weights):
    graph = nets.parse(text, weights, opset=RTX.rules.opset)
    clean(graph)
    return FloatModel("net", graph, SPEC)


@pytest.fixture
def written(weights, tmp_path):
    return write_weight_only(model_of(NET, weights), RTX, tmp_path, "w4")


def dequantized(graph, name):
    """Returns what DequantizeLinear-21 makes of the weight behind a name, in blocks along its axis."""
    (node,) = (node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0].startswith(name))
    held = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    attributes = {each.name: each.i for each in node.attribute}
    integers, scales = (held[each] for each in node.input)
    spread = np.repeat(scales.astype(np.float32), attributes["block_size"], attributes["axis"])
    return integers.astype(np.float32) * spread, scales, attributes


def test_weights_are_the_nearest_numbers_on_scales_of_fp16_in_blocks_along_the_inputs(written, weights):
    graph = onnx.load(written.path).graph
    for name, axis in (("wa", 0), ("wc", 1), ("wy", 0)):
        found, scales, attributes = dequantized(graph, name)
        assert attributes == {"axis": axis, "block_size": BLOCK}
        assert scales.dtype == np.float16
        step = np.repeat(scales.astype(np.float32), BLOCK, axis)
        assert (np.abs(found - weights[name]) <= step / 2 * (1 + 1e-6)).all()
        blocks = np.moveaxis(weights[name], axis, 0).reshape(-1, BLOCK, found.shape[1 - axis])
        largest = np.abs(blocks).max(axis=1)
        own = np.moveaxis(scales, axis, 0).astype(np.float32)
        np.testing.assert_allclose(own, np.where(largest > 0, largest / 7, 1), rtol=2**-10)
        assert (own * 7 >= largest).all()  # nothing is cut off
    kinds = {each.name: each.data_type for each in graph.initializer}
    assert sum(kind == onnx.TensorProto.INT4 for kind in kinds.values()) == 3


def test_with_what_layers_read_outputs_change_less_on_scales_that_fp16_holds(weights, tmp_path):
    x = (np.abs(nets.normal(9, 200, 64)) @ nets.normal(10, 64, 64)).astype(np.float64)  # values that go together
    moments = drawn_to_mean(x.T @ x, len(x))

    def measure(model, layers):
        (first,) = (str(node.name) for node in model.graph if node.inputs[0].name == "x")
        assert first in layers
        yield first, moments

    for precision, read in (("w4", lambda graph, name: dequantized(graph, name)[0]), ("fp4", read_fp4)):
        found = {}
        for number, given in enumerate((None, measure)):
            artifact = write_weight_only(model_of(NET, weights), RTX, tmp_path, precision, layer_moments=given)
            assert artifact.quantization["notes"] == [f"{number} of 3 weights are rounded by what their layers read"]
            graph = onnx.load(artifact.path).graph
            found[number] = [read(graph, name) for name in ("wa", "wc")]
        lost = [np.square(x @ (first - weights["wa"])).sum() for first, _ in found.values()]
        assert lost[1] < 0.6 * lost[0], precision
        np.testing.assert_array_equal(*(other for _, other in found.values()))  # nothing is known of what it reads


def test_the_file_computes_with_these_weights(written, weights):
    graph = onnx.load(written.path).graph
    x = nets.normal(9, 5, 64)
    half = np.float16
    a = np.maximum(x.astype(half).astype(np.float32) @ dequantized(graph, "wa")[0] + weights["ba"].astype(half), 0)
    c = np.maximum(a @ dequantized(graph, "wc")[0].T + weights["bc"].astype(half), 0)
    wanted = c @ weights["wt"].astype(half).astype(np.float32) @ dequantized(graph, "wy")[0]
    for runtime in ("onnxruntime", "simulated-tensorrt-rtx"):
        with open_session(written, runtime, threads=1) as session:
            found = session.run({"x": x})["y"]
        assert np.abs(found - wanted).max() < 4e-3 * np.abs(wanted).max(), runtime


def test_layers_that_cannot_are_named_with_the_reason(written, weights, tmp_path):
    facts = written.quantization
    assert facts["w4_nodes"] == 3 and written.precision == "w4"
    assert list(facts["float_nodes"].values()) == ["its 40 inputs are no multiple of blocks of 32"]
    names = [node.name for node in onnx.load(written.path).graph.node if node.op_type == "Gemm"]
    kept = write_weight_only(model_of(NET, weights), RTX, tmp_path, "w4", kept=Kept({"heads": tuple(names)}))
    assert kept.quantization["w4_nodes"] == 1
    with pytest.raises(ModelError, match="a Gemm or MatMul by a constant matrix; take fp16 or int8"):
        write_weight_only(model_of(CONVOLUTION, {"w": nets.normal(0, 4, 3, 1, 1)}), RTX, tmp_path, "w4")


def test_other_targets_have_no_such_files():
    request = ModelRequest("net.onnx", opset=19)
    with pytest.raises(InputError, match=r"`precision` w4: .* engines of arm; choose int8, or `target` x86, or rtx"):
        check_options(request, get_target("arm"), ("onnx",), ("w4",), None, ExportOptions())
    with pytest.raises(InputError, match="`precision` fp4"):
        check_options(request, get_target("jetson-orin-trt11"), ("onnx",), ("fp4",), None, ExportOptions())


@pytest.fixture
def written_fp4(weights, tmp_path):
    return write_weight_only(model_of(NET, weights), RTX, tmp_path, "fp4")


FP4_NUMBERS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""By code, from the specification of the format."""


def read_fp4(graph, name):
    """Returns the weight of a file by the bytes that it holds: codes of 4 bits, FP8 scales, their scale in FP16."""
    held = {each.name: each for each in graph.initializer}
    packed = np.frombuffer(held[f"{name}_fp4"].raw_data, np.uint8)
    codes = np.stack([packed & 15, packed >> 4], axis=1).ravel()
    blocks = np.frombuffer(held[f"{name}_scale_fp8"].raw_data, np.uint8).view(ml_dtypes.float8_e4m3fn)
    (tensor,) = numpy_helper.to_array(held[f"{name}_scale"]).reshape(-1)
    assert tensor.dtype == np.float16
    (node,) = (node for node in graph.node if node.input[0] == f"{name}_fp4")
    attributes = {each.name: each.i for each in node.attribute}
    assert attributes["block_size"] == 16
    scales = (blocks.astype(np.float32) * np.float32(tensor)).astype(np.float16)
    spread = np.repeat(scales.reshape(held[f"{name}_scale_fp8"].dims), 16, attributes["axis"]).astype(np.float32)
    return (FP4_NUMBERS[codes].reshape(held[f"{name}_fp4"].dims) * spread).astype(np.float16).astype(np.float32)


def test_fp4_files_hold_numbers_of_the_table_on_scales_of_two_levels(written_fp4, weights):
    model = onnx.load(written_fp4.path)
    onnx.checker.check_model(model)
    for name in ("wa", "wc", "wy"):
        found, wanted = read_fp4(model.graph, name), weights[name]
        # The widest gap is that from 4 to 6: half of it is a sixth of the largest; the scale adds a sixteenth.
        axis = 1 if name == "wc" else 0
        blocks = np.abs(np.moveaxis(wanted, axis, 0)).reshape(-1, 16, wanted.shape[1 - axis])
        largest = np.moveaxis(np.repeat(blocks.max(axis=1), 16, axis=0), 0, axis)
        assert (np.abs(found - wanted) <= largest * (1 / 6 + 1 / 16) + 1e-6).all()
        assert 1 - np.square(found - wanted).sum() / np.square(wanted).sum() > 0.98
    assert (read_fp4(model.graph, "wa")[:32, 3] == 0).all()
    assert written_fp4.quantization["fp4_nodes"] == 3 and written_fp4.precision == "fp4"
    assert list(written_fp4.quantization["float_nodes"].values()) == ["its 40 inputs are no multiple of blocks of 16"]


def test_fp4_files_compute_with_these_numbers_where_the_engine_lacks_the_type(written_fp4, weights):
    graph = onnx.load(written_fp4.path).graph
    x = nets.normal(9, 5, 64)
    half = np.float16
    a = np.maximum(x.astype(half).astype(np.float32) @ read_fp4(graph, "wa") + weights["ba"].astype(half), 0)
    c = np.maximum(a @ read_fp4(graph, "wc").T + weights["bc"].astype(half), 0)
    wanted = c @ weights["wt"].astype(half).astype(np.float32) @ read_fp4(graph, "wy")
    for runtime in ("onnxruntime", "simulated-tensorrt-rtx"):
        with open_session(written_fp4, runtime, threads=1) as session:
            found = session.run({"x": x})["y"]
        assert np.abs(found - wanted).max() < 4e-3 * np.abs(wanted).max(), runtime
    exact = ExactObserver(read_onnx(written_fp4.path), ["y"], 1).observe({"x": x})["y"]
    assert np.abs(exact - wanted).max() < 4e-3 * np.abs(wanted).max()


def test_rules_know_fp4_and_its_scales(written_fp4):
    model = read_onnx(written_fp4.path)
    checked = check_graph(model, (11, 0), strongly_typed=True)
    assert [each.rule for each in checked.findings] == ["T3"]
    assert "is in FP4, which GPUs from SM120 on compute" in checked.findings[0].sentence and not checked.errors
    assert len(checked.weight_layers) == 3
    assert {each.rule for each in check_graph(model, (10, 3)).errors} >= {"T1", "T7"}
    node = next(node for node in model.graph if node.name == "wa_scale_dequantize")
    scale = node.inputs[1]
    assert scale is not None
    scale.const_value = ir.tensor(np.array(-1.0, np.float16))
    assert [each.rule for each in check_graph(model, (11, 0), strongly_typed=True).errors] == ["T4", "T4"]


def test_a_file_is_compiled_for_the_first_gpu_that_computes_it(written, written_fp4):
    assert (default_gpu(written.path), default_gpu(written_fp4.path)) == ("SM86", "SM120")
    assert default_gpu(written_fp4.path.with_name(f"{written_fp4.path.name}.json")) == "SM120"


@needs_library
def test_the_real_compiler_takes_fp4_for_blackwell_alone(written_fp4):
    (found,) = compile_artifacts([written_fp4]).values()
    assert found.is_built and not found.is_wrong and found.sm == "SM120"
    assert [each.stored for each in found.nodes if each.planned == "weights"] == ["fp4"] * 3
    with pytest.raises(InputError, match="fp4, which GPUs from sm120 on compute, and sm89 is asked for"):
        build_engines([written_fp4.path], BuildRequest(sm=("sm89", "sm120")))


@needs_library
def test_the_real_compiler_takes_it_for_all_gpus_that_know_int4(written):
    (built,) = build_engines([written.path], BuildRequest(sm=("sm86", "sm120")))
    assert (built.artifact.precision, built.facts.gpus) == ("w4", ("SM86", "SM120"))
    with pytest.raises(InputError, match="w4, which GPUs from sm80 on compute, and sm75 is asked for"):
        build_engines([written.path], BuildRequest(sm=("sm75",)))
