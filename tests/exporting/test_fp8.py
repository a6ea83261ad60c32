"""FP8 files: scales and numbers against ml_dtypes and numpy, sums in ONNX Runtime, and NVIDIA's compiler."""

from __future__ import annotations

import importlib.util

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibrators import Histogram
from edgeq.calibrators.ranges import Provenance, Ranges
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.fp8 import write_fp8
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.options import ExportOptions
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.planning.keep import Kept
from edgeq.exporting.tensorrt.check import check_graph
from edgeq.quantizers.float8 import round_float8
from edgeq.runtimes import open_session
from edgeq.runtimes.observer import ExactObserver
from edgeq.runtimes.tensorrt.compile import Compiler
from edgeq.runtimes.tensorrt.compiled_log import Kernel
from edgeq.schemes import FLOAT8, PerAxis
from edgeq.sources.model import ModelRequest
from edgeq.targets import get_target
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.check_compile import compile_file, default_gpu
from edgeq.verbs.export_options import check_options
from tests.exporting import nets
from tests.golden_files import synthetic_ranges

RTX = get_target("rtx")
NET = """g (float[1,8,6,6] x) => (float[1,4,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(x, wa, ba) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, wb) s = Relu(b) y = Conv(s, wy) }"""
PEAK = 3.0
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
)


@pytest.fixture(scope="module")
def model():
    shapes = {"wa": (16, 8, 3, 3), "ba": (16,), "wb": (16, 16, 3, 3), "wy": (4, 16, 1, 1)}
    weights = {name: nets.normal(seed, *shape) / 8 for seed, (name, shape) in enumerate(shapes.items())}
    graph = nets.parse(NET, weights, opset=RTX.rules.opset)
    clean(graph)
    spec = Preprocessing(height_px=6, width_px=6)
    return FloatModel("net", graph, spec)


@pytest.fixture(scope="module")
def image():
    return np.clip(nets.normal(9, 1, 8, 6, 6), -PEAK, PEAK)


@pytest.fixture
def written(model, image, tmp_path):
    values = {"x": np.append(image, PEAK)}
    names = [name for name in calibrated_tensors(model) if name != "x"]
    graph = nets.copy(model.graph)
    for name in names:
        graph.graph.outputs.append(next(v for node in graph.graph for v in node.outputs if v.name == name))
    values |= dict(zip(names, nets.run(graph, image)[1:], strict=True))
    histograms = {name: Histogram.of(array.astype(np.float32).reshape(-1)) for name, array in values.items()}
    provenance = Provenance(model.digest, model.preprocessing.digest, 1, "images", "0")
    # A method that cuts off half: FP8 takes the extremes all the same.
    ranges = Ranges.from_histograms(histograms, provenance, "percentile", percentile=50.0)
    return write_fp8(model, RTX, tmp_path, ranges)


def constants(artifact):
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(artifact.path).graph.initializer}


def test_layers_of_fp8_are_those_of_int8_and_the_manifest_says_so(written):
    facts = written.quantization
    assert (facts["fp8_nodes"], facts["method"], written.precision) == (2, "minmax", "fp8")
    assert list(facts["float_nodes"].values()) == ["last convolution of a head"]
    graph = onnx.load(written.path).graph
    onnx.checker.check_model(written.path)
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    kinds = {each.name: each.data_type for each in graph.initializer}
    assert {kinds[name] for name in zeros} == {onnx.TensorProto.FLOAT8E4M3FN}


def test_the_largest_value_is_at_448(written, model):
    held = constants(written)
    assert held["x_scale"].dtype == np.float16
    assert float(held["x_scale"]) == pytest.approx(PEAK / 448, rel=2**-10)
    weight = numpy_helper.to_array(
        next(each for each in onnx.load(written.path).graph.initializer if each.name == "wa")
    )
    largest = np.abs(weight.astype(np.float32)).reshape(16, -1).max(axis=1)
    np.testing.assert_allclose(held["wa_scale"].astype(np.float32), largest / 448, rtol=2**-9)


def fp8(array, scale):
    """Returns what a Q/DQ pair makes of an array, by ml_dtypes' rounding."""
    steps = np.clip(array.astype(np.float32) / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return steps.astype(np.float32) * scale


def test_the_file_computes_with_fp8(written, image, model):
    held, half = constants(written), np.float16
    x = fp8(image.astype(half), held["x_scale"].astype(np.float32))
    scale = held["wa_scale"].astype(np.float32).reshape(-1, 1, 1, 1)
    weight = fp8(held["wa"], scale)
    text = "g (float[1,8,6,6] x) => (float[1,16,6,6] r) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) }"
    wanted = nets.run(nets.parse(text, {"w": weight, "b": held["ba"].astype(np.float32)}), x)[0]
    found = ExactObserver(read_onnx(written.path), ["r", "y"], 1).observe({"x": image})
    assert np.abs(found["r"] - wanted).max() < 4e-3 * np.abs(wanted).max()
    with open_session(written, "onnxruntime", threads=1) as session:
        y = session.run({"x": image})["y"]
    exact = nets.run(model.graph, image)[0]
    assert 10 * np.log10(np.square(exact).sum() / np.square(y - exact).sum()) > 20


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=40), st.integers(-20, 20))
def test_weights_are_the_nearest_fp8_numbers(numbers, power):
    weight = np.float32(2.0**power) * np.array([numbers, numbers[::-1]], np.float32)
    rounded = round_float8(weight, FLOAT8.along(PerAxis(0)))
    largest = np.abs(weight).max(axis=1)
    assert np.isfinite(rounded.dequantize()).all()
    # Three bits of mantissa: off by 2**-4 of a number at most, or by half of the smallest, which is 2**-9.
    step = rounded.scale.reshape(2, 1) * 2.0**-10
    assert (np.abs(rounded.dequantize() - weight) <= np.maximum(np.abs(weight) * 2.0**-4, step) * (1 + 1e-5)).all()
    np.testing.assert_allclose(
        np.abs(rounded.dequantize()).max(axis=1), np.where(largest > 2.0**-100, largest, 0), rtol=1e-6
    )


def test_other_targets_have_no_such_files():
    with pytest.raises(InputError, match=r"`precision` fp8: .* engines of x86; choose int8, or `target` rtx"):
        check_options(ModelRequest("a.onnx", opset=19), get_target("x86"), ("onnx",), ("fp8",), None, ExportOptions())
    with pytest.raises(InputError, match="fp8 needs ranges: give `calib`"):
        check_options(ModelRequest("a.onnx", opset=19), RTX, ("onnx",), ("fp8",), None, ExportOptions())


def test_check_counts_its_layers_and_names_the_gpus(written):
    assert default_gpu(written.path) == "SM89"
    found = check_graph(read_onnx(written.path), (11, 0))
    assert (len(found.fp8_layers), found.int8_layers, found.errors) == (2, (), ())
    assert [finding.sentence for finding in found.findings if "SM89 on" in finding.sentence] != []
    assert {finding.rule for finding in check_graph(read_onnx(written.path), (10, 3)).errors} == {"T3"}


@needs_compiler
def test_the_real_compiler_computes_the_layers_as_check_says(written):
    with Compiler("sm89") as compiler:
        found = compile_file(written.path, compiler)
    assert [(node.planned, node.compiled, node.agrees) for node in found.nodes] == [
        ("fp8", "fp8", True), ("fp8", "fp8", True), ("float", "fp16", True)
    ]  # fmt: skip


def _kernel_of(height: int, width: int) -> onnx.ModelProto:
    """Returns a convolution with FP8 pairs and a kernel of that size, in FP16."""
    text = """<ir_version: 9, opset_import: ["" : 19]> g (float16[1,8,16,16] x) => (float16[1,16,?,?] y) {
        xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)
        wq = QuantizeLinear(w, s, z) wd = DequantizeLinear(wq, s, z) [layer] y = Conv(xd, wd) }"""
    model = onnx.parser.parse_model(text)
    weight = nets.normal(1, 16, 8, height, width).astype(np.float16)
    arrays = {"w": weight, "s": np.array(0.01, np.float16), "z": np.zeros((), ml_dtypes.float8_e4m3fn)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


@needs_compiler
@pytest.mark.parametrize(("height", "width", "kind"), [(4, 8, "fp8"), (3, 11, "float"), (7, 7, "float")])
def test_the_rules_know_which_kernels_the_real_compiler_has_in_fp8(height, width, kind, tmp_path):
    onnx.save(_kernel_of(height, width), tmp_path / "net.onnx")
    checked = check_graph(read_onnx(tmp_path / "net.onnx"), (11, 0))
    assert ("T12" in {finding.rule for finding in checked.findings}) == (kind == "float") and not checked.errors
    with Compiler("sm89") as compiler:
        (layer,) = compile_file(tmp_path / "net.onnx", compiler).nodes
    assert (layer.planned, layer.agrees) == (kind, True)
    assert layer.compiled == ("fp8" if kind == "fp8" else "fp16")


def test_kernels_that_no_engine_has_in_fp8_stay_in_fp16(tmp_path):
    net = """g (float[1,8,16,16] x) => (float[1,8,8,8] y) {
        a = Conv<pads=[3,3,3,3], strides=[2,2]>(x, wa) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, wb) y = Softmax(b) }"""
    weights = {"wa": nets.normal(0, 16, 8, 7, 7), "wb": nets.normal(1, 8, 16, 3, 3)}
    graph = nets.parse(net, weights, opset=RTX.rules.opset)
    clean(graph)
    model = FloatModel("net", graph, Preprocessing(height_px=16, width_px=16))
    ranges = synthetic_ranges(calibrated_tensors(model), model.digest, model.preprocessing, "minmax")
    facts = write_fp8(model, RTX, tmp_path, ranges, Kept()).quantization
    assert "its kernel has 49 positions, and the target runs at most 32 in FP8" in facts["float_nodes"].values()


def test_a_generated_kernel_multiplies_in_fp8_where_nothing_dequantizes_behind_its_scale():
    """Kernels of the log of 1.7, of a squeeze-and-excite layer and, with a product added, of a 7 x 7 stem."""
    fp8, half = (
        Kernel(f"__myl_{name}_myl0_9", "kgen", ("fp32",), ("fp16", "fp32", "fp8"), ("fp16",), ())
        for name in ("MulCastAddReluMulCastConcCorrMulCastAdd", "CastMulCastCastMulConcCorr")
    )
    assert (fp8.precision, half.precision) == ("fp8", "fp16")


@needs_compiler
def test_the_real_compiler_takes_it_for_gpus_that_know_fp8(written):
    (built,) = build_engines([written.path], BuildRequest(sm=("sm89", "sm120")))
    assert (built.artifact.precision, built.facts.gpus) == ("fp8", ("SM89", "SM120"))
    with pytest.raises(InputError, match="fp8, which GPUs from sm89 on compute, and sm86 is asked for"):
        build_engines([written.path], BuildRequest(sm=("sm86",)))
