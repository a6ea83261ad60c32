"""What an export reports as lost: exact on any CPU, by groups of channels, with the layer to keep in float."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from benchmarks import exact_signal
from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import ModelError
from edgeq.evaluation import exact_comparison
from edgeq.evaluation.exact_comparison import ComparedImages, measure_onnx, measure_tflite, warn_of_loss, with_signal
from edgeq.evaluation.output_difference import compare
from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.exporting.onnx.writer import FloatModel, write_artifact, write_dynamic, write_fp16, write_int8
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.signal.output_groups import WHOLE, output_groups
from edgeq.exporting.signal.ratio import EQUAL_DB
from edgeq.exporting.tflite import writer as tflite_writer
from edgeq.exporting.tflite.writer import RangeSources, TfliteOptions
from edgeq.inputs.images import list_images
from edgeq.runtimes import open_session
from edgeq.runtimes.observer import ActivationObserver, ExactObserver
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.verbs.export import export_model
from tests import tflite_nets

X86 = get_target("x86")


def parsed(text: str, **arrays: np.ndarray) -> ir.Model:
    """Returns a graph of ONNX text, with the arrays as its initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return ir.from_proto(proto)


# Every pair of products is beyond int16, so that kernels without VNNI cut it off: 2 * 255 * 127 = 64770.
INTEGERS = np.full((1, 64, 4, 4), 255, np.uint8)
WEIGHT = np.full((3, 64, 1, 1), 127, np.int8)


def test_convolutions_between_pairs_are_exact():
    graph = parsed(
        "net (float[1,64,4,4] x) => (float[1,3,4,4] y) { q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)"
        "wd = DequantizeLinear(w, ws, wz) y = Conv(d, wd) }",
        s=np.array(0.5, np.float32), z=np.array(3, np.uint8), w=WEIGHT,
        ws=np.array(0.25, np.float32), wz=np.array(0, np.int8),
    )  # fmt: skip
    x = (INTEGERS.astype(np.float32) - 3) * 0.5
    found = ExactObserver(graph, ["y"], 1).observe({"x": x})["y"]
    wanted = np.einsum("nchw,oc->nohw", INTEGERS.astype(np.int64) - 3, WEIGHT[:, :, 0, 0].astype(np.int64))
    assert wanted.max() > 2**15
    np.testing.assert_array_equal(found, wanted * 0.5 * 0.25)


@pytest.mark.parametrize("rows", [1, 5])
def test_integer_products_are_exact(rows):
    graph = parsed(
        f"net (uint8[{rows},64] a, uint8 za) => (int32[{rows},3] y)"
        "{ y = MatMulInteger(a, b, za, zb) }",
        b=np.full((64, 3), 127, np.int8), zb=np.array([0, 1, -1], np.int8),
    )  # fmt: skip
    a = np.full((rows, 64), 255, np.uint8)
    found = ExactObserver(graph, ["y"], 1).observe({"a": a, "za": np.array(3, np.uint8)})["y"]
    wanted = (a.astype(np.int64) - 3) @ (np.full((64, 3), 127, np.int64) - [0, 1, -1])
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


def head_model() -> FloatModel:
    """Returns a detector of one convolution a head: boxes in pixels and scores in 0..1 in one output."""
    rng = np.random.default_rng(0)
    graph = parsed(
        "net (float[1,3,32,32] x) => (float[1,6,32,32] y) {"
        "[stem] f0 = Conv<pads = [1,1,1,1]>(x, w0, b0) [relu] f = Relu(f0)"
        "[box] b = Conv(f, wb, bb) [score] c0 = Conv(f, wc, bc) [sigmoid] c = Sigmoid(c0)"
        "[join] y = Concat<axis = 1>(b, c) }",
        w0=rng.normal(size=(8, 3, 3, 3)).astype("f4"), b0=rng.normal(size=8).astype("f4"),
        wb=(50 * rng.normal(size=(4, 8, 1, 1))).astype("f4"), bb=np.full(4, 200, "f4"),
        wc=rng.normal(size=(2, 8, 1, 1)).astype("f4"), bc=np.full(2, -2, "f4"),
    )  # fmt: skip
    clean(graph)
    return FloatModel("net", graph, Preprocessing(32, 32, resize="stretch"))


def damaged(model: FloatModel, folder: Path, **arrays: np.ndarray) -> Artifact:
    """Returns a file that calls itself INT8, in which some constants are others."""
    graph = model.copy_graph()
    for name, array in arrays.items():
        graph.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return write_artifact(model, graph, X86, "int8", folder, {})


@pytest.fixture(scope="module", autouse=True)
def as_many_images_as_users_have():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_comparison, "_CALIBRATION_IMAGES", 8)
        yield


@pytest.fixture(scope="module")
def model() -> FloatModel:
    return head_model()


@pytest.fixture
def drawn_images(model) -> ComparedImages:
    return ComparedImages(model.preprocessing, None)


def test_a_dead_score_is_seen_behind_its_boxes(model, drawn_images, tmp_path, caplog):
    """The whole output would be called alike: boxes of 200 pixels outweigh scores of 0.1."""
    file = damaged(model, tmp_path, wc=np.zeros((2, 8, 1, 1), "f4"), bc=np.full(2, -100, "f4"))
    groups = output_groups(model.graph)
    with open_session(file, "onnxruntime") as session:
        found = [session.run({"x": array})["y"] for array in drawn_images.inputs]
    observer = ActivationObserver(model.graph, ["y"])
    wanted = [observer.observe({"x": array})["y"] for array in drawn_images.inputs]
    whole = [float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(found, wanted, strict=True)]
    assert min(whole) > 0.99999

    reference = ("the model", [[array] for array in wanted])
    assert compare(file, drawn_images.inputs, reference, groups).cosine == pytest.approx(0, abs=1e-6)
    signal = measure_onnx(file, model, X86, drawn_images, groups)
    assert signal is not None
    warn_of_loss(file, signal, drawn_images, groups)
    boxes, scores = signal.outputs
    assert (boxes.label, boxes.snr_db, boxes.dead) == ("y[0:4]", EQUAL_DB, False)
    assert (scores.label, scores.dead) == ("y[4:6]", True)
    assert scores.snr_db == pytest.approx(0, abs=0.01)
    assert "net.x86.int8.onnx: y[4:6] is constant, while the model's is not (exact arithmetic" in caplog.text


def test_the_layer_that_loses_most_is_named_with_what_to_do(model, tmp_path, caplog, drawn):
    source = CalibrationSource(drawn.annotations, drawn.folder)
    images = ComparedImages(model.preprocessing, source)
    weight = np.asarray(model.graph.graph.initializers["wb"].const_value.numpy())
    file = damaged(model, tmp_path, wb=-weight, bb=np.zeros(4, "f4"))
    signal = measure_onnx(file, model, X86, images, output_groups(model.graph))
    assert signal is not None
    assert [layer.name for layer in signal.layers] == ["box"]
    assert signal.layers[0].input_db == EQUAL_DB
    assert signal.snr_db < 10
    assert (signal.images, signal.how.endswith("8 calibration images")) == (8, True)
    warn_of_loss(file, signal, images, output_groups(model.graph))
    (line,) = caplog.messages
    assert line.startswith(f"net.x86.int8.onnx: y[0:4] has a signal-to-noise ratio of {signal.snr_db:.1f} dB (exact ")
    assert f"it falls most at box (120.0 to {signal.layers[0].snr_db:.1f} dB): try `keep` box" in line


def test_layers_that_are_in_float_already_are_measured_and_not_named(model, drawn_images, tmp_path):
    weight = np.asarray(model.graph.graph.initializers["wb"].const_value.numpy())
    file = damaged(model, tmp_path, wb=-weight)
    file = dataclasses.replace(file, quantization={"float_nodes": {"box": "kept"}})
    signal = measure_onnx(file, model, X86, drawn_images, output_groups(model.graph))
    assert signal is not None
    assert signal.layers == ()
    course = {layer.name: layer.snr_db for layer in signal.course}
    assert list(course) == ["stem", "box", "score"]
    assert course["box"] < 10 < course["score"]


@pytest.fixture(scope="module")
def request_(small_weights) -> ModelRequest:
    return ModelRequest("centernet_resnet18", weights=small_weights, size=(64, 96))


@pytest.fixture(scope="module")
def source(drawn) -> CalibrationSource:
    return CalibrationSource(drawn.annotations, drawn.folder, method="minmax")


@pytest.fixture(scope="module")
def exported(request_, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_model(request_, "x86", ("fp32", "fp16", "int8", "dynamic"), folder, calibration=source)


def test_the_ratio_is_that_of_the_files_in_exact_arithmetic(exported):
    """Computed anew with the sessions that simulate TensorRT: node by node, as the file is written."""
    files = {file.artifact.precision: file for file in exported.files}
    inputs = ComparedImages(exported.model.preprocessing, None, ranges=Ranges.load(exported.ranges_path)).inputs
    assert len(inputs) == 8
    outputs = {}
    for precision, runtime in (("fp32", "onnxruntime"), ("int8", "simulated-narrow")):
        artifact = files[precision].artifact
        with open_session(artifact, runtime, 1) as session:
            outputs[precision] = [session.run({artifact.inputs[0].name: array}) for array in inputs]
    for output in files["int8"].comparison.signal.outputs:
        x, q = (np.stack([run[output.name] for run in outputs[key]]).astype(np.float64) for key in ("fp32", "int8"))
        assert output.snr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - q) ** 2).sum()), abs=0.02)
        assert output.cosine == pytest.approx((x * q).sum() / np.sqrt((x**2).sum() * (q**2).sum()), abs=1e-5)
        assert not output.dead


def test_precisions_rank_as_their_steps_do(exported):
    signals = {file.artifact.precision: file.comparison.signal for file in exported.files}
    assert signals["fp32"] is None
    assert signals["fp16"].snr_db > signals["dynamic"].snr_db > signals["int8"].snr_db > 10
    for signal in filter(None, signals.values()):
        assert 1 <= len(signal.layers) <= 5
        assert set(signal.layers) <= set(signal.course)
        order = [node.name for node in exported.model.graph.graph]
        places = [order.index(layer.name) for layer in signal.course]
        assert places == sorted(places)


def test_the_manifest_and_json_carry_it(exported):
    for file, entry in zip(exported.files, exported.to_json()["files"], strict=True):
        loaded = Artifact.load(file.artifact.path)
        assert loaded == file.artifact
        signal = file.comparison.signal
        assert loaded.quantization.get("signal") == (None if signal is None else signal.to_json())
        assert loaded.quantization_facts.signal_course == (() if signal is None else signal.course)
        assert entry["quantization"].get("signal") == loaded.quantization.get("signal")
        if signal is not None:
            assert entry["comparison"]["signal"]["how"] == signal.how
    json.dumps(exported.to_json(), allow_nan=False)


def test_memory_is_bounded_by_chunks_that_change_nothing(exported, request_, source, monkeypatch):
    """One tensor at a time, and all of them at once."""
    artifact = next(file.artifact for file in exported.files if file.artifact.precision == "int8")
    model = exported.model
    opened = []

    class Counted(ExactObserver):
        def __init__(self, graph, names, threads=None):
            opened.append(len(names))
            super().__init__(graph, names, threads)

    monkeypatch.setattr(exact_comparison, "ExactObserver", Counted)
    images = ComparedImages(model.preprocessing, None)
    whole = measure_onnx(artifact, model, X86, images, output_groups(model.graph), 1)
    (tensors,) = opened
    monkeypatch.setattr(exact_comparison, "_CHUNK_BYTES", 100_000)
    chunked = measure_onnx(artifact, model, X86, images, output_groups(model.graph), 1)
    assert chunked == whole
    assert len(opened) > 3
    assert sum(opened[1:]) == tensors


def test_models_with_large_maps_are_compared_on_fewer_images(exported, source, monkeypatch):
    artifact = next(file.artifact for file in exported.files if file.artifact.precision == "int8")
    monkeypatch.setattr(exact_comparison, "_BUDGET_BYTES", 1)
    images = ComparedImages(exported.model.preprocessing, source)
    signal = measure_onnx(artifact, exported.model, X86, images, output_groups(exported.model.graph))
    assert signal is not None
    assert (signal.images, signal.how.endswith(", 2 calibration images")) == (2, True)


def test_ranges_have_the_inputs_that_were_kept_with_them(exported, tmp_path):
    spec, ranges = exported.model.preprocessing, Ranges.load(exported.ranges_path)
    images = ComparedImages(spec, CalibrationSource(exported.ranges_path))
    assert (images.kind, len(images.inputs)) == ("calibration", 8)
    np.testing.assert_array_equal(images.inputs[3], ranges.samples[3].array())
    in_memory = ComparedImages(spec, CalibrationSource(ranges))
    np.testing.assert_array_equal(in_memory.inputs[3], images.inputs[3])
    others = [sample for sample in ranges.samples if sample not in ranges.strongest]
    assert others, "the strongest outputs are not those of the random inputs"
    judged = ComparedImages(spec, CalibrationSource(tmp_path), ranges=ranges)
    np.testing.assert_array_equal(judged.inputs[0], ranges.strongest[0].array())
    turns = {array.tobytes() for array in judged.inputs}
    strong = {sample.array().tobytes() for sample in ranges.strongest} & turns
    assert len(turns) == 8 > len(strong) >= 4
    assert judged.described(8) == f"8 calibration images, {len(strong)} of them with the strongest outputs"
    assert judged.described(1) == "1 calibration image"
    earlier = dataclasses.replace(ranges, strongest=())
    earlier_images = ComparedImages(spec, CalibrationSource(earlier), ranges=earlier)
    np.testing.assert_array_equal(earlier_images.inputs[3], images.inputs[3])
    assert earlier_images.described(8) == "8 calibration images"
    other = ComparedImages(dataclasses.replace(spec, height_px=32), CalibrationSource(ranges))
    assert (other.kind, len(other.inputs)) == ("drawn", 2)
    dataclasses.replace(ranges, samples=()).save(tmp_path / "bare.json")
    images = ComparedImages(spec, CalibrationSource(tmp_path / "bare.json"))
    assert (images.kind, len(images.inputs)) == ("drawn", 2)


def test_dynamic_products_are_judged_as_the_specification_has_them(tmp_path, drawn_images):
    """A file whose MatMulInteger would saturate without VNNI loses what 8 bits lose, and no more."""
    rng = np.random.default_rng(0)
    graph = parsed(
        "net (float[1,3,32,32] x) => (float[1,1024,4] y) { s = Constant<value = int64[3] {1, 3, 1024}>()"
        "r = Reshape(x, s) t = Transpose<perm = [0, 2, 1]>(r) y = MatMul(t, w) }",
        w=rng.uniform(0.9, 1, (3, 4)).astype("f4"),
    )  # fmt: skip
    clean(graph)
    model = FloatModel("net", graph, Preprocessing(32, 32, resize="stretch"))
    file = write_dynamic(model, X86, tmp_path)
    assert "MatMulInteger" in {node.op_type for node in onnx.load(file.path).graph.node}
    signal = measure_onnx(file, model, X86, drawn_images, output_groups(graph))
    assert signal is not None
    assert 40 < signal.snr_db < 70


def test_it_stands_in_one_line_on_the_terminal(edgeq, small_onnx, exported, tmp_path):
    outcome = edgeq(
        "export", small_onnx, "--preset", "centernet", "--precision", "int8", "--out", tmp_path,
        "--calib", exported.ranges_path,
    )  # fmt: skip
    assert outcome.code == 0
    signal = Artifact.load(tmp_path / "small.x86.int8.onnx").quantization["signal"]
    (line,) = [line.strip() for line in outcome.out.splitlines() if "worst layer" in line]
    outputs = ", ".join(f"{output['name']} {output['snr_db']:.1f}" for output in signal["outputs"])
    worst = signal["layers"][0]
    assert line == (
        f"small.x86.int8.onnx: {signal['snr_db']:.1f} dB ({outputs}; worst layer {worst['name']} "
        f"{worst['input_db']:.1f} to {worst['snr_db']:.1f} dB); {signal['how']}"
    )


def test_files_without_a_loss_of_their_own_have_no_signal(exported, drawn_images):
    """On Jetson the engine computes in FP16, not the file."""
    fp32 = exported.files[0].artifact
    engines = dataclasses.replace(fp32, precision="fp16", quantization={"fp16": "by the engine"})
    for artifact in (fp32, engines):
        assert measure_onnx(artifact, exported.model, X86, drawn_images, output_groups(exported.model.graph)) is None
        assert with_signal(artifact, None) is artifact


def test_a_tflite_file_is_judged_in_litert(drawn, tmp_path):
    tflite_nets.require_converter()
    model = tflite_nets.centernet()
    ranges = calibrate(model, list_images(drawn.folder), method="minmax", num=8, threads=1).ranges
    known = RangeSources({name: (ranges, name) for name in ranges.tensors})
    images = ComparedImages(model.preprocessing, None)
    groups = [WHOLE] * len(model.outputs)
    fp32 = tflite_writer.write(model, "arm", "fp32", tmp_path, TfliteOptions())
    assert measure_tflite(fp32, model, images, groups, 1) is None
    found = {}
    for precision in ("fp16", "int16x8", "int8"):
        file = tflite_writer.write(model, "arm", precision, tmp_path, TfliteOptions(), known)
        signal = measure_tflite(file, model, images, groups, 1)
        assert signal is not None
        found[precision] = signal
    assert found["fp16"].snr_db > found["int8"].snr_db > 10
    assert found["int16x8"].snr_db > found["int8"].snr_db
    assert found["int8"].how.startswith("exact arithmetic: LiteRT 2")
    assert found["int8"].layers
    assert {output.name for output in found["int8"].outputs} == {"hm", "wh", "reg"}


def test_integer_outputs_of_a_tflite_file_are_read_as_real_numbers(drawn, tmp_path):
    tflite_nets.require_converter()
    model = tflite_nets.centernet()
    ranges = calibrate(model, list_images(drawn.folder), method="minmax", num=8, threads=1).ranges
    known = RangeSources({name: (ranges, name) for name in ranges.tensors})
    file = tflite_writer.write(model, "arm", "int8", tmp_path, TfliteOptions(integer_io=True), known)
    assert file.outputs[0].scale is not None
    images = ComparedImages(model.preprocessing, CalibrationSource(drawn.annotations, drawn.folder))
    signal = measure_tflite(file, model, images, [WHOLE] * len(model.outputs), 1)
    assert signal is not None
    assert 10 < signal.snr_db < 60


def test_a_file_of_another_calibration_loses_more(request_, exported, source, tmp_path):
    """The guard's purpose: ranges that do not fit are seen in the figure."""
    model = open_model(request_).model
    ranges = Ranges.load(exported.ranges_path).with_method("percentile", percentile=80.0)
    file = write_int8(model, X86, tmp_path, ranges)
    images = ComparedImages(model.preprocessing, source)
    poor = measure_onnx(file, model, X86, images, output_groups(model.graph))
    good = next(each.comparison.signal for each in exported.files if each.artifact.precision == "int8")
    assert poor is not None
    assert poor.snr_db < good.snr_db - 6


def test_the_benchmark_goes_on_where_it_ended_and_names_what_cannot_be_exported(
    small_onnx, drawn, tmp_path, monkeypatch
):
    data, images = drawn.folder, "."
    subjects = {
        "small": exact_signal.Subject("Small", str(small_onnx), "annotations.json", images, preset="centernet"),
        "gone": exact_signal.Subject("Gone", "gone.onnx", "annotations.json", images, preset="centernet"),
    }
    monkeypatch.setattr(exact_signal, "SUBJECTS", subjects)
    arguments = ["exact_signal", "--data", str(data), "--images", "2", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path)])
    exact_signal.main()
    written = (tmp_path / "exact_signal.md").read_text()
    assert re.search(
        r"^\| Small \| \d+\.\d \| \d+\.\d \| hm \d+\.\d, wh \d+\.\d, reg \d+\.\d \| .+ \|$", written, re.MULTILINE
    )
    assert re.search(r"^\| Gone \| \| \| .*gone.onnx: no such file", written, re.MULTILINE)
    monkeypatch.setattr(exact_signal, "measure", None)
    exact_signal.main()
    assert (tmp_path / "exact_signal.md").read_text() == written


def test_fp16_may_miss_a_few_values_by_far_and_fp16_of_another_model_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    graph = parsed("net (float[1,3,32,32] x) => (float[1,8,30,30] y) { y = Conv(x, w) }", w=weight)
    model = FloatModel("net", graph, Preprocessing(height_px=32, width_px=32))
    artifact = write_fp16(model, X86, tmp_path)
    image = rng.normal(size=(1, 3, 32, 32)).astype(np.float32)
    with open_session(artifact, "onnxruntime") as session:
        found = session.run({"x": image})["y"]
    outlier = found.copy()
    outlier[0, 0, 0, 0] += 0.2 * np.abs(found).max()
    compared = compare(artifact, [image], ("net", [[outlier]]), [WHOLE])
    assert compared.max_abs_difference > 0.1 * compared.max_abs_output
    for other in (found[:, ::-1], np.where(found > 2, np.nan, found), found + np.abs(found).max()):
        with pytest.raises(ModelError, match=r"net\.x86\.fp16\.onnx: differs from net by .* please report the model"):
            compare(artifact, [image], ("net", [[other]]), [WHOLE])
