"""The target `rtx`: TensorRT 11's rules, but for what the compiler of TensorRT for RTX computes in Half."""

from __future__ import annotations

import importlib.util

import onnx
import pytest

from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.writer import FloatModel, write_int8
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.tensorrt.check import check_graph, parse_version
from edgeq.runtimes import simulation_of
from edgeq.targets import get_target
from edgeq.verbs.build import BuildRequest, build_engines
from edgeq.verbs.export_options import with_int8_deconv
from tests.exporting import nets
from tests.golden_files import synthetic_ranges

DECONVOLUTION = """g (float[1,16,8,8] x) => (float[1,4,16,16] y) {
    a = Conv<pads=[1,1,1,1]>(x, wa) ra = Relu(a)
    c = ConvTranspose<strides=[2,2], pads=[1,1,1,1], kernel_shape=[4,4]>(ra, wc, bc) rc = Relu(c)
    d = Conv<pads=[1,1,1,1]>(rc, wd) rd = Relu(d) y = Conv(rd, wy) }"""


@pytest.fixture(scope="module")
def model():
    weights = {
        "wa": nets.normal(1, 16, 16, 3, 3) / 8,
        "wc": nets.normal(2, 16, 16, 4, 4) / 8,
        "bc": nets.normal(3, 16),
        "wd": nets.normal(4, 16, 16, 3, 3) / 8,
        "wy": nets.normal(5, 4, 16, 1, 1),
    }
    graph = nets.parse(DECONVOLUTION, weights, opset=get_target("rtx").rules.opset)
    clean(graph)
    spec = Preprocessing(height_px=8, width_px=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return FloatModel("net", graph, spec)


def written(model, target, folder):
    """Returns the INT8 file, its graph and the types of the layers that read integers."""
    ranges = synthetic_ranges(calibrated_tensors(model), model.digest, model.preprocessing, "minmax")
    artifact = write_int8(model, target, folder, ranges)
    checked = check_graph(read_onnx(artifact.path), parse_version("11.0"), strongly_typed=True)
    graph = onnx.load(artifact.path).graph
    kinds = {node.name: node.op_type for node in graph.node}
    return artifact, graph, sorted(kinds[name] for name in checked.int8_layers)


def test_a_transposed_convolution_stays_in_float(model, tmp_path):
    artifact, graph, int8 = written(model, get_target("rtx"), tmp_path)
    assert int8 == ["Conv", "Conv"]
    (node,) = (node for node in graph.node if node.op_type == "ConvTranspose")
    assert not node.input[0].endswith("_dequantized") and artifact.quantization["rewritten_conv_transpose"] == 0
    halves = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT16}
    assert halves.issuperset(name for name in node.input[1:])


def test_on_request_it_is_written_as_a_convolution_that_reads_integers(model, tmp_path):
    artifact, graph, int8 = written(model, with_int8_deconv(get_target("rtx")), tmp_path)
    assert int8 == ["Conv", "Conv", "Conv"]
    operators = [node.op_type for node in graph.node]
    assert "ConvTranspose" not in operators and operators.count("DepthToSpace") == 1
    assert artifact.quantization["rewritten_conv_transpose"] == 1


def test_it_is_simulated_by_its_own_name():
    assert simulation_of("rtx") == "simulated-tensorrt-rtx"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_the_real_compiler_takes_the_file(model, tmp_path):
    artifact, _, _ = written(model, with_int8_deconv(get_target("rtx")), tmp_path)
    (built,) = build_engines([artifact.path], BuildRequest(sm=("sm86",)))
    assert built.facts.gpus == ("SM86",)
