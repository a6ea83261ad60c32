"""`edgeq tune --runtime litert`: the files that are scored and recommended are TFLite files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeq as package
from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.tflite.graph import read_graph
from edgeq.files import write_bytes
from edgeq.runtimes import open_session
from edgeq.sources import tflite
from edgeq.targets import get_target
from edgeq.tuning.search_budget import Budget
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.sensitivity import SensitivityOptions
from edgeq.tuning.tflite_files import owners_of, screened_target
from edgeq.verbs.sensitivity import calibration_of, find_sensitivity
from edgeq.verbs.tune import TuningFiles, tune_model
from tests.exporting import nets
from tests.kept_exports import keep_composite_operators, made_once
from tests.tflite_nets import by_hand, require_converter
from tests.tuning.nets import save_classifier
from tests.tuning.test_sensitivity import Net

IMAGES, DROP = 70, 5.0


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Iterator[Net]:
    """The classifier with one layer that INT8 destroys; it is converted in this process, which is faster."""
    require_converter()
    net = Net(*save_classifier(tmp_path_factory.mktemp("net"), images=IMAGES))
    ranges = net.calib / "ranges.json"
    package.calibrate(package.load(net.file, preset=net.preset), net.calib, threads=1, out=ranges)

    def run(job: tflite.Conversion) -> None:
        keep_composite_operators()
        write_bytes(Path(job.out), made_once("tuned classifier.tflite", lambda: tflite._converted(job)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "_run", run)
        yield net._replace(calib=ranges)


@pytest.fixture(scope="module")
def tuned(net, tmp_path_factory) -> TuningFiles:
    return tune(net, tmp_path_factory.mktemp("tuned"), Budget(max_drop=DROP))


def tune(net: Net, out: Path, budget: Budget, **options) -> TuningFiles:
    asked = SearchOptions(runtime="litert", threads=1, budget=budget)
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    return tune_model(net.request, "arm", data, source, out, options=asked, **options)


@pytest.mark.parametrize(
    ("behind", "layers", "pairs"),
    [("Sigmoid(a) m = Mul(a, s)", (0, 1), "none"), ("Relu(a) m = Relu(s)", (1, 2), "required")],
)
def test_layers_that_onnx_runtime_leaves_in_float_are_searched(behind, layers, pairs):
    """YOLOX-nano has a SiLU behind every convolution, and nothing of it was searched for LiteRT."""
    text = f"""g (float[1,3,8,8] x) => (float[1,4,8,8] y) {{ a = Conv<pads=[1,1,1,1]>(x, w1) s = {behind}
        d = Conv<group=4, pads=[1,1,1,1]>(m, w2) r = Relu(d) y = Conv(r, w3) }}"""
    shapes = {"w1": (4, 3, 3, 3), "w2": (4, 1, 3, 3), "w3": (4, 4, 1, 1)}
    graph = nets.graph(text, {name: nets.normal(seed, *shape) for seed, (name, shape) in enumerate(shapes.items())})
    model, arm = FloatModel("net", graph, Preprocessing(8, 8)), get_target("arm")
    found = screened_target(model, arm).rules
    assert found.output_pairs == pairs
    assert tuple(len(select_layers(graph, rules).quantized) for rules in (arm.rules, found)) == layers


def test_the_recommended_file_is_a_tflite_file_with_the_fragile_layer_in_float(tuned):
    result, chosen = tuned.result, tuned.result.chosen
    assert result.runtime == "litert"
    assert [group.name for group in result.groups if group.precision == "float"] == ["fragile"]
    assert chosen.loss is not None
    assert chosen.loss.high <= DROP
    default = next(each for each in result.files if each.name == "default")
    assert default.loss is not None
    assert default.loss.points > 20, "the file that export writes loses what the search finds"
    artifact = tuned.artifact
    assert artifact.format == "tflite"
    assert artifact.path.stat().st_size == chosen.size_bytes < max(each.size_bytes for each in result.files)
    (fragile,) = artifact.quantization["float_nodes"]
    graph = read_graph(artifact.path.read_bytes(), artifact.name)
    layers = {graph.tensors[each.outputs[0]].name: each for each in graph.operators if each.kind == "CONV_2D"}
    assert {graph.tensors[each.inputs[1]].dtype for each in layers.values()} == {"float32", "int8"}
    assert graph.tensors[layers[fragile].inputs[1]].dtype == "float32"
    with open_session(artifact, "litert", 1) as session:
        assert "litert" in str(session.environment()["engine"]).lower()


def test_no_time_of_this_machine_is_taken_for_that_of_arm(tuned):
    assert {each.latency.obtained for each in tuned.result.files} == {"estimated"}
    assert "estimated" in tuned.result.time_source
    assert {each.w4a8_layers for each in tuned.result.files} == {0}
    assert all(not re.search("equalize|corrected", each.recipe) for each in tuned.result.files)


def test_the_same_command_resumes_and_finds_the_same(net, tuned, tmp_path):
    again = tune(net, tmp_path, Budget(max_drop=DROP), store=tuned.artifact.path.parent / "trials.sqlite")
    assert again.result.files == tuned.result.files
    assert again.artifact.digest == tuned.artifact.digest


def test_sensitivity_is_that_of_tflite_files(net, tmp_path):
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    options = SensitivityOptions(runtime="litert", threads=1)
    found = find_sensitivity(net.request, "arm", data, source, tmp_path, options=options).result
    assert found.runtime == "litert"
    assert found.ranked[0].name == "fragile"
    assert found.loss.points > 20
    with pytest.raises(InputError, match="edgeq writes no such TFLite files"):
        narrow = SensitivityOptions(runtime="litert", threads=1, precision="w4a8")
        find_sensitivity(net.request, "arm", data, source, tmp_path, options=narrow)


def test_what_no_layer_is_matched_with_goes_with_the_layer_that_it_reads():
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    shape = (1, 2, 2, 3)
    content = by_hand(
        dict.fromkeys("xabcd", shape),
        [("LOGISTIC", "x", "a"), ("RELU", "a", "b"), ("ADD", "b x", "c"), ("RELU", "x", "d")],
        ["x"],
        ["c", "d"],
        schema,
    )
    assert owners_of(read_graph(content, "net"), {"a": "conv"}) == {"a": "conv", "b": "conv", "c": "conv"}


def test_what_tflite_files_cannot_have_is_refused(net, tmp_path):
    with pytest.raises(InputError, match="is learned for ONNX files; omit it, or choose another `runtime`"):
        tune(net, tmp_path, Budget(max_drop=DROP), rounding="reconstruct")
    with pytest.raises(InputError, match="files of arm cannot be measured on this machine"):
        tune(net, tmp_path, Budget.of(None, "5ms", None, None, None))
