"""Files of every precision from one float file: what they hold, what they compute, and what is left of a failure."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeq.calibration.calibrate import calibrate
from edgeq.calibrators import Histogram
from edgeq.calibrators.grid import Range
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError, MismatchError, ModelError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.plan import QuantPlan
from edgeq.exporting.tflite import quantize as quantize_module
from edgeq.exporting.tflite.graph import Graph, read_graph, rename_tensors
from edgeq.exporting.tflite.keep import resolve_operators
from edgeq.exporting.tflite.plan import LAYERS
from edgeq.exporting.tflite.quantize import check, intervals, quantize
from edgeq.exporting.tflite.writer import (
    RangeSources,
    TfliteModel,
    TfliteOptions,
    plan,
    tensors_to_calibrate,
    write,
)
from edgeq.inputs.images import list_images
from edgeq.inputs.preprocessing import preprocess
from edgeq.runtimes import open_session
from edgeq.schemes import FLOAT, LayerScheme
from edgeq.sources.model import ModelRequest
from edgeq.sources.tflite import open_tflite
from edgeq.targets.tflite import INT8, INT16X8
from edgeq.tasks import find_decoder
from edgeq.tasks.detection.shapes import draw_image
from tests import tflite_nets

PRECISIONS = ("fp32", "fp16", "int8", "int16x8", "dynamic")
INTEGER_IO = TfliteOptions(integer_io=True)
COMPAT = TfliteOptions(compat="tflite-runtime")


@pytest.fixture(scope="module")
def detector() -> TfliteModel:
    return tflite_nets.centernet()


@pytest.fixture(scope="module")
def known(detector: TfliteModel, drawn) -> RangeSources:
    return known_of(detector, drawn.folder)


def known_of(model: TfliteModel, folder: Path) -> RangeSources:
    ranges = calibrate(model, list_images(folder), method="minmax", num=16, threads=1).ranges
    return RangeSources({name: (ranges, name) for name in ranges.tensors})


@pytest.fixture(scope="module")
def written(detector: TfliteModel, known: RangeSources, tmp_path_factory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("written")
    found = {name: write(detector, "arm", name, folder, TfliteOptions(), known) for name in PRECISIONS}
    extra = {"int8_io": ("int8", INTEGER_IO), "int16_io": ("int16x8", INTEGER_IO), "compat": ("dynamic", COMPAT)}
    for name, (precision, options) in extra.items():
        found[name] = write(detector, "arm", precision, folder / name, options, known)
    return found


@pytest.fixture(scope="module")
def image(detector: TfliteModel) -> np.ndarray:
    return preprocess(draw_image(9, 5).pixels, detector.preprocessing)[0]


def outputs_of(artifact: Artifact, image: np.ndarray) -> dict[str, np.ndarray]:
    spec = artifact.inputs[0]
    with open_session(artifact, "litert", 1) as session:
        found = session.run({spec.name: spec.encode(image)})
    return {spec.name: spec.decode(found[spec.name]) for spec in artifact.outputs}


def graph_of(artifact: Artifact) -> Graph:
    return read_graph(artifact.path.read_bytes(), artifact.name)


def layers(graph: Graph, kinds: frozenset[str] = LAYERS) -> Iterator[tuple[str, Graph, int]]:
    for operator in graph.operators:
        if operator.kind in kinds:
            yield operator.kind, graph, operator.inputs[1]


def error(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """Returns the largest root mean square of an output's differences, as a share of the output's own."""
    return max(float(np.linalg.norm(found[name] - wanted[name]) / np.linalg.norm(wanted[name])) for name in wanted)


def test_every_precision_is_near_the_float_file(written, image) -> None:
    wanted = outputs_of(written["fp32"], image)
    errors = {name: error(outputs_of(artifact, image), wanted) for name, artifact in written.items()}
    assert errors["fp16"] < 1e-2
    assert 0 < errors["int16x8"] < errors["int8"] < 0.3
    assert 0 < errors["int16_io"] < errors["int8_io"] < 0.3
    assert 0 < errors["dynamic"] < 0.15 and 0 < errors["compat"] < 0.15


def test_sizes(written) -> None:
    whole = written["fp32"].size_bytes
    assert 0.49 < written["fp16"].size_bytes / whole < 0.53
    for name in ("int8", "int16x8", "dynamic", "int8_io"):
        assert 0.24 < written[name].size_bytes / whole < 0.32


def test_static_int8_has_a_weight_scale_for_each_channel_and_integers_between_all_layers(written) -> None:
    graph = graph_of(written["int8"])
    for operator in graph.operators:
        if operator.kind not in LAYERS:
            continue
        weight = graph.tensors[operator.inputs[1]]
        assert weight.dtype == "int8" and len(weight.scales) == weight.shape[weight.channel_axis] > 1
        assert set(weight.zero_points) == {0}
    floats = {tensor.name for tensor in graph.tensors if tensor.dtype == "float32" and not tensor.constant}
    heads = {graph.tensors[graph.producer[index].inputs[0]].name for index in graph.outputs}
    assert floats == {"image", "hm", "wh", "reg"} | heads
    dequantized = [operator for operator in graph.operators if operator.kind == "DEQUANTIZE"]
    assert {graph.tensors[operator.outputs[0]].name for operator in dequantized} == heads
    assert [operator.kind for operator in graph.operators].count("QUANTIZE") == 1


def test_scales_are_those_of_the_ranges(detector, known, written) -> None:
    decisions = plan(detector, "int8", TfliteOptions())
    found = intervals(detector.graph, known.tensors, decisions)
    graph = graph_of(written["int8"])
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    static = [decision.name for decision in decisions.values() if decision.scheme == INT8]
    assert len(static) > 20
    for name in static:
        low, high = found[name]
        (scale,), (zero,) = tensors[name].scales, tensors[name].zero_points
        assert scale == pytest.approx((high - low) / 255, rel=1e-6)
        assert zero == pytest.approx(-128 - low / scale, abs=0.51)
    assert tensors["image_quantized"].dtype == "int8"


def test_int16x8_takes_the_widest_values_seen_whatever_the_method(detector, known, tmp_path) -> None:
    percentile = {name: (ranges.with_method("percentile", percentile=90), key)
                  for name, (ranges, key) in known.tensors.items()}  # fmt: skip
    files = [write(detector, "arm", "int16x8", tmp_path / str(i), TfliteOptions(), RangeSources(each))
             for i, each in enumerate((known.tensors, percentile))]  # fmt: skip
    assert files[0].path.read_bytes() == files[1].path.read_bytes()
    ranges, _ = known.tensors["conv_2d_1"]
    (tensor,) = [tensor for tensor in graph_of(files[0]).tensors if tensor.name == "conv_2d_1"]
    assert tensor.dtype == "int16" and tensor.zero_points == (0,)
    assert tensor.scales[0] == pytest.approx(ranges.histograms["conv_2d_1"].maximum / 32767, rel=1e-6)


@pytest.mark.parametrize(("name", "dtype"), [("int8", "float32"), ("int8_io", "int8"), ("int16_io", "int16")])
def test_ends_are_real_numbers_or_integers_and_the_manifest_says_which(written, name: str, dtype: str) -> None:
    artifact = Artifact.load(written[name].manifest_path)
    assert artifact == written[name]
    assert [spec.name for spec in (*artifact.inputs, *artifact.outputs)] == ["image", "hm", "wh", "reg"]
    graph = graph_of(artifact)
    for spec, index in zip((*artifact.inputs, *artifact.outputs), (*graph.inputs, *graph.outputs), strict=True):
        tensor = graph.tensors[index]
        assert (
            (spec.dtype, spec.layout, spec.shape) == (dtype, "NHWC", tensor.shape) == (tensor.dtype, "NHWC", spec.shape)
        )
        assert (spec.scale is None) == (dtype == "float32")
        assert spec.scale is None or (spec.scale, spec.zero_point) == (tensor.scales[0], tensor.zero_points[0])


def test_integer_ends_give_the_same_detections(detector, written, image) -> None:
    _, placement = preprocess(draw_image(9, 5).pixels, detector.preprocessing)
    decoder = find_decoder(detector.postprocessing)
    whole, integers = (
        decoder.decode(outputs_of(written[name], image), detector.postprocessing, placement)
        for name in ("fp32", "int8_io")
    )
    best = np.argsort(-whole.scores)[:3]
    for index in best:
        same = integers.classes == whole.classes[index]
        distance = np.abs(integers.boxes[same] - whole.boxes[index]).max(axis=1)
        assert distance.min() < 0.1 * np.ptp(whole.boxes)
        assert abs(integers.scores[same][distance.argmin()] - whole.scores[index]) < 0.1


def test_manifests_tell_what_was_done(detector, known, written) -> None:
    facts = written["int8"].quantization
    ranges, _ = next(iter(known.tensors.values()))
    assert facts["method"] == "minmax" and facts["ranges_digests"] == [ranges.digest]
    count = len(list(layers(detector.graph)))
    assert (facts["int8_nodes"], set(facts["dynamic_nodes"])) == (count - 3, {"hm", "wh", "reg"})
    assert written["dynamic"].quantization["layers"] == {"dynamic": count}
    assert written["compat"].quantization["compat"] == "tflite-runtime"
    assert written["int8"].source_digest == detector.digest
    assert {"edgeq", "litert-torch", "ai-edge-quantizer"} <= written["int8"].tools.keys()
    assert written["int8"].name == "small.arm.int8.tflite"


def test_dynamic_files_have_float_activations_and_no_dynamic_depthwise(tmp_path: Path) -> None:
    model = tflite_nets.mobile()
    artifact = write(model, "arm", "dynamic", tmp_path, TfliteOptions())
    graph = graph_of(artifact)
    assert {tensor.dtype for tensor in graph.tensors if not tensor.constant} == {"float32"}
    weights = {kind: graph.tensors[index].dtype for kind, graph, index in layers(graph)}
    assert weights == {"CONV_2D": "int8", "DEPTHWISE_CONV_2D": "float32", "FULLY_CONNECTED": "int8"}
    assert artifact.quantization["float_nodes"] and "DEQUANTIZE" not in {each.kind for each in graph.operators}


def test_files_for_tflite_runtime(detector, written, tmp_path: Path) -> None:
    mobile = tflite_nets.mobile()
    for options, single in ((COMPAT, True), (TfliteOptions(), False)):
        artifact = write(mobile, "arm", "dynamic", tmp_path / str(single), options)
        for kind, graph, index in layers(graph_of(artifact)):
            scales = graph.tensors[index].scales
            if kind == "FULLY_CONNECTED":
                assert (len(scales) == 1) == single
            if kind == "CONV_2D":
                assert len(scales) > 1
    upsampling = frozenset({"TRANSPOSE_CONV"})
    assert {graph.tensors[i].dtype for _, graph, i in layers(graph_of(written["compat"]), upsampling)} == {"float32"}
    assert {graph.tensors[i].dtype for _, graph, i in layers(graph_of(written["dynamic"]), upsampling)} == {"int8"}


def test_the_same_input_gives_the_same_bytes(detector, known, written, tmp_path: Path) -> None:
    for precision in PRECISIONS:
        again = write(detector, "arm", precision, tmp_path, TfliteOptions(), known)
        assert again.path.read_bytes() == written[precision].path.read_bytes()
        assert again.manifest_path.read_bytes() == written[precision].manifest_path.read_bytes()


def test_tensors_may_have_the_names_that_the_quantizer_gives(detector, known, written, image, drawn, tmp_path) -> None:
    graph = detector.graph
    ends = [graph.tensors[index].name for index in (*graph.inputs, *graph.outputs)]
    inner = [tensor.index for tensor in graph.tensors if tensor.name not in ends]
    names = [f"{name}_{suffix}" for name in ends for suffix in ("quantized", "dequant")]
    for number in range(len(inner) // 3 + 1):
        names += [f"t{number}", f"t{number}_dequant", f"t{number}_quantized"]
    path = tmp_path / "hostile.tflite"
    path.write_bytes(rename_tensors(detector.content, dict(zip(inner, names, strict=False)), "hostile"))
    model = open_tflite(ModelRequest(str(path), preset="centernet"))
    artifact = write(model, "arm", "int8", tmp_path, TfliteOptions(), known_of(model, drawn.folder))
    assert [spec.name for spec in (*artifact.inputs, *artifact.outputs)] == ends
    found, wanted = outputs_of(artifact, image), outputs_of(written["int8"], image)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_classifier_with_mixed_ranges_is_split_and_warned_of(drawn, tmp_path: Path, caplog) -> None:
    model = tflite_nets.mobile()
    known = known_of(model, drawn.folder)
    (joined,) = [operator for operator in model.graph.operators if operator.kind == "CONCATENATION"]
    wide = model.graph.tensors[joined.inputs[0]].name
    ranges, _ = known.tensors[wide]
    tensors = dict(ranges.tensors) | {wide: dataclasses.replace(ranges.tensors[wide], high=1e4, threshold=1e4)}
    changed = dataclasses.replace(ranges, tensors=tensors)
    mixed = RangeSources({name: (changed, name) for name in tensors})
    for each, kind in ((known, "int8"), (mixed, "float32")):
        graph = graph_of(write(model, "arm", "int8", tmp_path, TfliteOptions(), each))
        assert {graph.tensors[o.outputs[0]].dtype for o in graph.operators if o.kind == "CONCATENATION"} == {kind}
    assert "mixed ranges: the inputs of concatenation_" in caplog.text


def test_a_tensor_without_range_is_a_mismatch_and_leaves_nothing(detector, known, tmp_path: Path) -> None:
    needed = tensors_to_calibrate(detector, ["int8"], TfliteOptions())
    assert {"image", "conv_2d_1"} <= set(needed) <= set(known.tensors)
    less = RangeSources({name: each for name, each in known.tensors.items() if name != "conv_2d_5"})
    with pytest.raises(MismatchError, match="no interval for the TFLite tensor 'conv_2d_5'; give `calib` with images"):
        write(detector, "arm", "int8", tmp_path, TfliteOptions(), less)
    assert list(tmp_path.iterdir()) == []


def test_exactly_the_needed_tensors_suffice(detector, known, written, tmp_path: Path) -> None:
    for precision, options, name in (
        ("int8", TfliteOptions(), "int8"),
        ("int8", INTEGER_IO, "int8_io"),
        ("int16x8", TfliteOptions(), "int16x8"),
    ):
        needed = tensors_to_calibrate(detector, [precision], options)
        artifact = write(
            detector, "arm", precision, tmp_path, options, RangeSources({each: known.tensors[each] for each in needed})
        )
        assert artifact.path.read_bytes() == written[name].path.read_bytes()


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_disk_leaves_whole_files_only(detector, tmp_path: Path, monkeypatch, at: int) -> None:
    calls = iter(range(9))

    def full(_descriptor: int) -> None:
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        write(detector, "arm", "fp16", tmp_path, TfliteOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_int8_layers_is_warned_of(detector, known, tmp_path: Path, caplog) -> None:
    artifact = write(
        detector,
        "arm",
        "int8",
        tmp_path,
        TfliteOptions(resolve_operators(detector.graph, ["CONV_2D", "TRANSPOSE_CONV"])),
        known,
    )
    assert "no layer of small has an INT8 form in TFLite" in caplog.text
    assert artifact.quantization["int8_nodes"] == 0
    assert json.loads(artifact.manifest_path.read_text())["quantization"]["float_nodes"]["hm"] == "kept by 'CONV_2D'"


# `check`, the guard of all of them


def quantized(
    detector: TfliteModel, known: RangeSources
) -> tuple[bytes, dict[int, LayerDecision], dict[str, tuple[float, float]]]:
    decisions = plan(detector, "int8", TfliteOptions())
    found = intervals(detector.graph, known.tensors, decisions)
    return quantize(detector.content, planned(decisions), "net", ranges=found), decisions, found


def planned(decisions: dict[int, LayerDecision]) -> QuantPlan:
    return QuantPlan(tuple(decisions.values()), {})


def replaced(decisions: dict[int, LayerDecision], name: str, scheme: LayerScheme) -> dict[int, LayerDecision]:
    return {
        index: dataclasses.replace(decision, scheme=scheme) if decision.name == name else decision
        for index, decision in decisions.items()
    }


def test_what_was_not_decided_is_told(detector: TfliteModel, known: RangeSources) -> None:
    content, decisions, ranges = quantized(detector, known)
    after = read_graph(content, "net")
    check(detector.graph, after, decisions, "net", ranges=ranges)
    wrong = [
        (
            replaced(decisions, "conv_2d_5", FLOAT),
            ranges,
            "'conv_2d_5' was to be float, but its output is int8",
        ),
        (replaced(decisions, "hm", FLOAT), ranges, "'hm' was to be float, but its weight is int8"),
        (replaced(decisions, "hm", INT8), ranges, "'hm' was to be int8, but its output is float32"),
        (replaced(decisions, "add_6", INT16X8), ranges, "'add_6' was to be int16x8, but its output is int8"),
        ({i: c for i, c in decisions.items() if c.name != "conv_2d_5"}, ranges, "'conv_2d_5' was to be float"),
        (decisions, ranges | {"conv_2d_5": (0.0, 1.0)}, "'conv_2d_5' was to be int8, but its scale is"),
    ]
    for plan_, intervals_, message in wrong:
        with pytest.raises(ModelError, match=f"^net: .*{message}.*please report"):
            check(detector.graph, after, plan_, "net", ranges=intervals_)
    with pytest.raises(ModelError, match="operator 'pad_0' is not in the quantized file"):
        check(detector.graph, Graph(after.tensors, after.operators[2:], after.inputs, after.outputs), decisions, "net")


def test_weights_of_one_scale_are_told_where_each_channel_was_to_have_one(detector, known, monkeypatch) -> None:
    decisions = plan(detector, "dynamic", TfliteOptions())
    content = quantize(detector.content, planned(decisions), "net", per_tensor=frozenset({"CONV_2D"}))
    with pytest.raises(ModelError, match="its weights have one scale instead of one for each channel"):
        check(detector.graph, read_graph(content, "net"), decisions, "net")


def test_a_quantizer_that_fails_is_one_line(detector, known, tmp_path, monkeypatch) -> None:
    decisions = plan(detector, "int8", TfliteOptions())
    found = intervals(detector.graph, known.tensors, decisions)
    monkeypatch.setattr(quantize_module, "_statistics", lambda *_: {"conv_2d_1": {"min": "a", "max": "b"}})
    with pytest.raises(ModelError, match=r"^net: ai-edge-quantizer cannot quantize it: "):
        quantize(detector.content, planned(decisions), "net", ranges=found)


def test_ranges_that_touch_zero_only_give_a_file_that_runs(detector, known, image, tmp_path: Path) -> None:
    """A tensor that is zero on all calibration images."""
    ranges, _ = known.tensors["conv_2d_5"]
    histograms = dict(ranges.histograms) | {"conv_2d_5": Histogram.of(np.zeros(9))}
    changed = Ranges.from_histograms(histograms, ranges.provenance, "minmax")
    artifact = write(
        detector,
        "arm",
        "int8",
        tmp_path,
        TfliteOptions(),
        RangeSources({name: (changed, name) for name in changed.tensors}),
    )
    assert all(np.isfinite(array).all() for array in outputs_of(artifact, image).values())


def test_a_range_without_a_step_leaves_its_operators_in_float(detector, known, tmp_path, caplog) -> None:
    (ranges,) = {id(used): used for used, _ in known.tensors.values()}.values()
    decisions = plan(detector, "int8", TfliteOptions()).values()
    layer = next(each.name for each in decisions if each.scheme == INT8 and each.op_type in LAYERS)
    narrow = dataclasses.replace(ranges, tensors={**ranges.tensors, layer: Range(0.0, 3e-10, 3e-10)})
    sources = RangeSources({name: (narrow, name) for name in narrow.tensors})
    artifact = write(detector, "arm", "int8", tmp_path, TfliteOptions(), sources)
    assert f"the values of {layer} have a range of 3.0e-10" in artifact.quantization["float_nodes"][layer]
    assert {tensor.name: tensor.dtype for tensor in graph_of(artifact).tensors}[layer] == "float32"
    assert f"narrow ranges: {layer} and" in caplog.text
    assert artifact.quantization["int8_nodes"] > 5
