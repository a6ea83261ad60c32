"""One calibration and one `--keep` for the ONNX graph and the TFLite file of a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.followed_ranges import Matched, collect_ranges, match_tensors
from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.calibration.shared_ranges import operators_of, translate_keep, twins_of_nodes
from edgeq.calibration.source import CalibrationSource
from edgeq.calibrators.ranges import Ranges
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.onnx.writer import FloatModel, write_int8
from edgeq.exporting.planning.keep import resolve_keep
from edgeq.exporting.planning.selection import activation_behind
from edgeq.exporting.tflite.graph import read_graph
from edgeq.exporting.tflite.keep import operator_name
from edgeq.exporting.tflite.plan import observed_tensors
from edgeq.exporting.tflite.writer import TfliteModel, TfliteOptions, tensors_to_calibrate, write
from edgeq.inputs.images import list_images
from edgeq.inputs.preprocessing import preprocess
from edgeq.sources.model import ModelRequest, open_model
from edgeq.sources.torch_export import export_torch
from edgeq.targets import get_target
from edgeq.tasks.detection.shapes import draw_image
from tests import tflite_nets
from tests.exporting import nets
from tests.small import SIZE


class Pair(NamedTuple):
    """One model in both forms, its ranges on the ONNX graph, and what was found in each other."""

    model: FloatModel
    converted: TfliteModel
    ranges: Ranges
    matched: dict[str, str]


@pytest.fixture(scope="module")
def pair(small_weights: Path, drawn) -> Pair:
    tflite_nets.require_converter()
    model = open_model(ModelRequest("centernet_resnet18", weights=small_weights, size=SIZE)).model
    ranges = calibrate(model, list_images(drawn.folder), method="minmax", num=8, threads=1).ranges
    probes = [preprocess(draw_image(4, index).pixels, model.preprocessing)[0] for index in range(2)]
    converted = tflite_nets.centernet()
    computed = set(observed_tensors(converted.graph))
    twins = match_tensors(model, converted, list(ranges.tensors), probes).twins
    return Pair(model, converted, ranges, {name: twin for name, twin in twins.items() if name in computed})


def test_every_tensor_that_a_cnn_needs_is_found(pair: Pair) -> None:
    needed = tensors_to_calibrate(pair.converted, ["int8", "int16x8"], TfliteOptions(integer_io=True))
    assert set(needed) <= pair.matched.keys()
    assert {pair.matched[name] for name in ("hm", "wh", "reg")} == {"hm", "wh", "reg"}
    assert pair.matched["image"] == pair.model.graph.graph.inputs[0].name


def test_a_layer_before_a_silu_is_found_though_nothing_has_a_range_there() -> None:
    """Of YOLOX-nano no layer was found, for `--keep` and for `edgeq tune --runtime litert`."""
    tflite_nets.require_converter()
    converted = tflite_nets.mobile()
    graph = export_torch(tflite_nets.seeded(tflite_nets.Mobile), torch.zeros(1, 3, 16, 16), ["classes"], opset=18)
    model = FloatModel("mobile", graph, converted.preprocessing)
    (sigmoid,) = (node for node in graph.graph if node.op_type == "Sigmoid")
    assert sigmoid.inputs[0] is not None
    gated = sigmoid.inputs[0].producer()
    assert gated is not None
    assert sigmoid.inputs[0].name not in calibrated_tensors(model)
    twins = twins_of_nodes(model, converted, [str(gated.name)], [nets.normal(5, 1, 3, 16, 16)])
    names, lost = operators_of(model, twins, [str(gated.name)])
    operators = {operator_name(converted.graph, each): each.kind for each in converted.graph.operators}
    assert ([operators[name] for name in names], lost) == (["CONV_2D"], [])


def test_ranges_alone_suffice(pair: Pair, tmp_path: Path) -> None:
    """No image is read: there is none."""
    file = tmp_path / "ranges.json"
    pair.ranges.save(file)
    known = collect_ranges(
        pair.converted,
        Matched(pair.matched),
        pair.ranges,
        CalibrationSource(file),
        ["int8"],
        TfliteOptions(),
        tmp_path,
        1,
    )
    assert known.matched == len(known.tensors) == len(tensors_to_calibrate(pair.converted, ["int8"], TfliteOptions()))
    artifact = write(pair.converted, "arm", "int8", tmp_path, TfliteOptions(), known)
    assert artifact.quantization["matched_tensors"] == known.matched
    assert artifact.quantization["ranges_digests"] == [pair.ranges.digest]


@pytest.mark.kernels
@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse", "lp"])
def test_both_files_have_the_same_scales(pair: Pair, tmp_path: Path, method: str) -> None:
    ranges = pair.ranges.with_method(method)
    known = collect_ranges(pair.converted, Matched(pair.matched), ranges, None, ["int8"], TfliteOptions(), tmp_path, 1)
    tflite = write(pair.converted, "arm", "int8", tmp_path, TfliteOptions(), known)
    onnx_scales = scales_of_onnx(write_int8(pair.model, get_target("arm"), tmp_path, ranges).path)
    compared = 0
    for tensor in read_graph(tflite.path.read_bytes(), tflite.name).tensors:
        twin = pair.matched.get(tensor.name.removesuffix("_quantized"))
        if len(tensor.scales) == 1 and tensor.dtype == "int8" and twin in onnx_scales:
            scale, zero = onnx_scales[twin]
            assert tensor.scales[0] == pytest.approx(scale, rel=1e-6), (tensor.name, twin)
            low, high = ranges.interval(twin)
            # The zero of a range whose ends are cut off alike lies halfway between two integers: the last bit decides.
            expected = {-1, 0} if high == pytest.approx(-low, rel=1e-6) else {zero}
            assert {tensor.zero_points[0], zero} <= expected
            compared += 1
    # The image and most of the activations: ConvTranspose has other tensors in the ONNX file.
    assert compared >= 20


def scales_of_onnx(path: Path) -> dict[str, tuple[float, int]]:
    """Returns tensor -> step and zero point of its QuantizeLinear."""
    graph = onnx.load(path).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return {
        node.input[0]: (float(values[node.input[1]]), int(values[node.input[2]]))
        for node in graph.node if node.op_type == "QuantizeLinear"
    }  # fmt: skip


def test_with_method_best_what_has_no_twin_falls_back(pair: Pair, drawn, tmp_path: Path) -> None:
    ranges = dataclasses.replace(pair.ranges, method="best", options={"bits": 8, "held_out": 2})
    less = {name: twin for name, twin in pair.matched.items() if name != "conv_2d_5"}
    source = CalibrationSource(drawn.annotations, drawn.folder, num=8, method="best")
    known = collect_ranges(pair.converted, Matched(less), ranges, source, ["int8"], TfliteOptions(), tmp_path, 1)
    own, name = known.tensors["conv_2d_5"]
    assert (own.method, name) == ("lp", "conv_2d_5")
    with pytest.raises(InputError, match="method best measures the layers of an ONNX graph, not of a TFLite file"):
        calibrate(pair.converted, list_images(drawn.folder), method="best")


def test_what_has_no_twin_is_collected_from_the_images(pair: Pair, drawn, tmp_path: Path) -> None:
    less = {name: twin for name, twin in pair.matched.items() if name not in ("conv_2d_5", "add_6")}
    source = CalibrationSource(drawn.annotations, drawn.folder, num=8)
    known = collect_ranges(pair.converted, Matched(less), pair.ranges, source, ["int8"], TfliteOptions(), tmp_path, 1)
    needed = tensors_to_calibrate(pair.converted, ["int8"], TfliteOptions())
    assert known.tensors.keys() == set(needed) and known.matched == len(needed) - 2
    for name in ("conv_2d_5", "add_6"):
        ranges, key = known.tensors[name]
        assert key == name and ranges.method == "minmax"
        np.testing.assert_allclose(ranges.interval(name), pair.ranges.interval(pair.matched[name]), rtol=1e-5)
    assert Ranges.load(tmp_path / "small.tflite.ranges.json").tensors.keys() == {"conv_2d_5", "add_6"}


def test_what_has_no_twin_and_no_images_is_told(pair: Pair, tmp_path: Path) -> None:
    less = {name: twin for name, twin in pair.matched.items() if name != "conv_2d_5"}
    bare = dataclasses.replace(pair.ranges, samples=())
    with pytest.raises(MismatchError, match=r"no interval for the TFLite tensors conv_2d_5, .* `keep_samples` 8"):
        collect_ranges(pair.converted, Matched(less), bare, None, ["int8"], TfliteOptions(), tmp_path, 1)


def test_what_has_no_twin_and_no_images_is_measured_on_kept_inputs(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    less = {name: twin for name, twin in pair.matched.items() if name != "conv_2d_5"}
    with caplog.at_level("INFO"):
        known = collect_ranges(pair.converted, Matched(less), pair.ranges, None, ["int8"], TfliteOptions(), tmp_path, 1)
    assert known.sampled == ("conv_2d_5",) and known.matched == len(known.tensors) - 1
    assert (
        "no calibrated tensor leads to 1 TFLite tensors: conv_2d_5; their ranges are from the 8 inputs" in caplog.text
    )
    # All eight images were kept, so that the only difference is that of 256 levels.
    ranges, name = known.tensors["conv_2d_5"]
    whole = np.subtract(*pair.ranges.interval(pair.matched["conv_2d_5"]))
    np.testing.assert_allclose(
        ranges.interval(name), pair.ranges.interval(pair.matched["conv_2d_5"]), atol=0.01 * abs(whole)
    )
    artifact = write(pair.converted, "arm", "int8", tmp_path, TfliteOptions(), known)
    assert artifact.quantization["sampled_tensors"] == ["conv_2d_5"]


def test_keep_by_onnx_node_name_reaches_the_tflite_file(pair: Pair, tmp_path: Path) -> None:
    node = next(
        node
        for node in pair.model.graph.graph
        if node.op_type == "Conv" and node.inputs[0] and node.inputs[0].producer()
    )
    (kept,) = translated(pair, [str(node.name)])
    assert pair.matched[kept] == activation_behind(node).name
    artifact = write(pair.converted, "arm", "dynamic", tmp_path, TfliteOptions(kept={kept: "asked for"}))
    assert artifact.quantization["float_nodes"] == {kept: "asked for"}
    weight = constant(node.inputs[1])
    assert weight is not None and len(weight) == pair.converted.graph.tensors[numbers(pair)[kept]].shape[3]


def translated(pair: Pair, keep: list[str]) -> dict[str, str]:
    """Returns what `keep` means in the TFLite file."""
    kept = resolve_keep(pair.model.graph, keep, unknown_to_graph=True)
    return translate_keep(pair.model, pair.converted, pair.matched, kept)


def numbers(pair: Pair) -> dict[str, int]:
    return {tensor.name: tensor.index for tensor in pair.converted.graph.tensors}


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_keep_by_operator_type_reaches_every_counterpart(pair: Pair, kind: str) -> None:
    kept = translated(pair, [kind])
    operators = {pair.converted.graph.tensors[operator.outputs[0]].name: operator.kind
                 for operator in pair.converted.graph.operators}  # fmt: skip
    same = {"Conv": "CONV_2D", "ConvTranspose": "TRANSPOSE_CONV"}[kind]
    assert {name for name, found in operators.items() if found == same} <= set(kept)


def test_tflite_names_and_kinds_are_taken_as_they_are(pair: Pair) -> None:
    deconvolutions = {operator_name(pair.converted.graph, operator) for operator in pair.converted.graph.operators
                      if operator.kind == "TRANSPOSE_CONV"}  # fmt: skip
    assert translated(pair, ["conv_2d_5", "TRANSPOSE_CONV"]) == {
        "conv_2d_5": "kept by 'conv_2d_5'", **dict.fromkeys(deconvolutions, "kept by 'TRANSPOSE_CONV'"),
    }  # fmt: skip


def test_a_node_without_counterpart_is_told(pair: Pair) -> None:
    name = next(str(node.name) for node in pair.model.graph.graph if node.op_type == "Conv")
    with pytest.raises(InputError, match="the nodes that it matches have no counterpart in the TFLite file"):
        translated(pair._replace(matched={}), [name])
    with pytest.raises(InputError, match="`keep` 'nothing': matches no node"):
        translated(pair, ["nothing"])


def test_a_layer_that_is_lost_among_others_is_warned_of(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    node = next(node for node in pair.model.graph.graph if node.op_type == "Conv")
    lost = {str(node.outputs[0].name), str(activation_behind(node).name)}
    less = {name: twin for name, twin in pair.matched.items() if twin not in lost}
    kept = translated(pair._replace(matched=less), ["Conv"])
    assert "conv_2d_5" in kept and "conv_2d_1" not in kept
    assert f"`keep` 'Conv': no counterpart in the TFLite file for {node.name}" in caplog.text
