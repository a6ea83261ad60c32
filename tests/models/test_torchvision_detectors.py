"""torchvision's detectors as networks of tensors: with our decoder they find what torchvision finds."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import edgeq
from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing, Preprocessing
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.inputs.presets import load_preset
from edgeq.models.outputs import tensor_outputs
from edgeq.models.torchvision_detectors import OwnInput, own_input
from edgeq.tasks.detection.decoders import get_decoder
from tests.models.detectors import CLASSES, SIZE, detector, normalised, pictures

DECODING = {
    "ssd": {"background": 0, "score_threshold": 0.2, "iou_threshold": 0.45, "candidates": 20, "top_k": 50},
    "retinanet": {"score_threshold": 0.3, "iou_threshold": 0.5, "top_k": 50},
    "fcos": {"score_threshold": 0.2, "iou_threshold": 0.6, "top_k": 50},
}


@pytest.mark.parametrize("name", sorted(DECODING))
def test_decoded_outputs_are_what_torchvision_finds(name: str) -> None:
    module = detector(name)
    images = pictures(2)
    network = tensor_outputs(module, normalised(images[:1]))
    assert network.output_names == ("boxes", "scores")
    placement = Placement(SIZE[1], SIZE[0], SIZE[1], SIZE[0], 1, 1, 0, 0)
    with torch.no_grad():
        expected = module(list(images))
        boxes, scores = network(normalised(images))
    assert scores.shape == (2, boxes.shape[1], CLASSES)
    for index, wanted in enumerate(expected):
        outputs = {"boxes": boxes[index : index + 1].numpy(), "scores": scores[index : index + 1].numpy()}
        post = Postprocessing("scored_boxes", options=DECODING[name])
        found = get_decoder("scored_boxes")(outputs, post, placement)
        assert len(found) == len(wanted["boxes"]) > 10
        np.testing.assert_allclose(found.boxes, wanted["boxes"], atol=1e-3)
        np.testing.assert_allclose(found.scores, wanted["scores"], rtol=1e-5)
        np.testing.assert_array_equal(found.classes + ("background" in DECODING[name]), wanted["labels"])


def test_from_picture_to_detections_as_torchvision_does_it() -> None:
    picture = np.asarray(pictures(1)[0, :, :40, :90].permute(1, 2, 0) * 255).astype(np.uint8)
    module = detector("ssd")
    array, placement = preprocess(picture, Preprocessing(*SIZE, "stretch", mean=(0.5,) * 3, std=(0.25,) * 3))
    with torch.no_grad():
        (expected,) = module([torch.from_numpy(picture).permute(2, 0, 1) / 255])
        boxes, scores = tensor_outputs(module, torch.zeros(1, 3, *SIZE))(torch.from_numpy(array))
    outputs = {"boxes": boxes.numpy(), "scores": scores.numpy()}
    found = get_decoder("scored_boxes")(outputs, Postprocessing("scored_boxes", options=DECODING["ssd"]), placement)
    assert len(found) > 10
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    np.testing.assert_array_equal(found.classes + 1, expected["labels"])


@pytest.mark.parametrize(
    "name", ["ssd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fcos", "retinanet"))]
)
def test_int8_files_keep_boxes_and_scores(name: str, tmp_path: Path) -> None:
    images = normalised(pictures(16))
    model = edgeq.load(detector(name), images[:1], name=name)
    files = edgeq.export(model, "x86", ["fp32", "int8"], calib=list(images.numpy()[:, None]), out=tmp_path).files
    fp32, signal = files[0].comparison, files[1].comparison.signal
    assert fp32.max_abs_difference < 1e-5 * fp32.max_abs_output
    assert [output.name for output in files[1].artifact.outputs] == ["boxes", "scores"]
    # Anchors and scales are added to boxes in float: in INT8 a pixel of 96 would be rounded to three quarters of one.
    assert signal is not None and signal.snr_db > {"ssd": 38, "retinanet": 38, "fcos": 32}[name], signal


def test_a_detector_says_what_it_makes_of_images() -> None:
    assert own_input(detector("ssd")) == OwnInput(SIZE, (0.5,) * 3, (0.25,) * 3)
    kept = own_input(detector("retinanet"))
    assert kept is not None and kept.size is None
    assert own_input(nn.Conv2d(3, 3, 1)) is None


def test_two_stages_are_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"FasterRCNN has two stages, .* take a detector of one stage \(SSD, SSDLite"):
        tensor_outputs(detector("faster_rcnn"), torch.zeros(1, 3, *SIZE))


def test_two_stages_as_torch_writes_them_are_decoded_by_the_preset(tmp_path: Path) -> None:
    module: Any = detector("faster_rcnn")
    module.transform.min_size, module.transform.max_size = (SIZE[0],), SIZE[1]
    images, path = pictures(2), tmp_path / "faster_rcnn.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the older exporter says that it is old, and torchvision traces with Python ints
        torch.onnx.export(module, ([images[0]],), path, dynamo=False, output_names=["boxes", "labels", "scores"])
    session = onnxruntime.InferenceSession(path)
    preset = load_preset("faster_rcnn", SIZE)
    assert preset.postprocessing is not None
    placement = Placement(SIZE[1], SIZE[0], SIZE[1], SIZE[0], 1, 1, 0, 0)
    for image in images:
        names = [each.name for each in session.get_outputs()]
        arrays = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        found = get_decoder("detections")(dict(zip(names, arrays, strict=True)), preset.postprocessing, placement)
        with torch.no_grad():
            (expected,) = module([image])
        assert len(found) == len(expected["boxes"]) > 10
        np.testing.assert_allclose(found.boxes, expected["boxes"], atol=1e-3)
        np.testing.assert_array_equal(found.classes, expected["labels"])


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_the_best_of_each_level_are_looked_at(name: str) -> None:
    """With less than there are above the threshold, as torchvision does it: level by level, not class by class."""
    module: Any = detector(name)
    module.topk_candidates, module.score_thresh, module.detections_per_img = 40, 0.05, 300
    images = pictures(1)
    with torch.no_grad():
        (expected,) = module(list(images))
        boxes, scores = tensor_outputs(module, normalised(images))(normalised(images))
    options = {
        "strides": [16, 32],
        "boxes_per_cell": boxes.shape[1] // 30,
        "candidates": 40,
        "iou_threshold": DECODING[name]["iou_threshold"],
        "top_k": 300,
    }
    placement = Placement(SIZE[1], SIZE[0], SIZE[1], SIZE[0], 1, 1, 0, 0)
    outputs = {"boxes": boxes.numpy(), "scores": scores.numpy()}
    found = get_decoder("scored_boxes")(outputs, Postprocessing("scored_boxes", options=options), placement)
    assert len(found) == len(expected["boxes"]) > 10
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=1e-3)
    options["boxes_per_cell"] = 2
    with pytest.raises(
        ModelError, match=rf"has 60 anchors for an input of 96x64, but the model gives {boxes.shape[1]}"
    ):
        get_decoder("scored_boxes")(outputs, Postprocessing("scored_boxes", options=options), placement)


def test_sides_that_torchvision_would_pad_are_refused() -> None:
    with pytest.raises(ModelError, match=r"RetinaNet needs sides that are multiples of 32, .*; found .* 64x80"):
        tensor_outputs(detector("retinanet"), torch.zeros(1, 3, 64, 80))
    tensor_outputs(detector("ssd"), torch.zeros(1, 3, 64, 80))


def test_an_input_that_the_backbone_cannot_take_is_one_line() -> None:
    module = detector("ssd")
    module.get_submodule("backbone").add_module("deeper", nn.Conv2d(32, 32, 9))
    with pytest.raises(ModelError, match="SSD cannot take an input of 64x96: RuntimeError: Calculated pad") as error:
        tensor_outputs(module, torch.zeros(1, 3, *SIZE))
    assert "\n" not in str(error.value)
