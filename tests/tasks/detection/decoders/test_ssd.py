"""Anchors and the boxes told by them, against torchvision, trained UltraFace and golden numbers of other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.inputs.presets import load_preset
from edgeq.tasks.detection.decoders import get_decoder
from edgeq.tasks.detection.decoders.anchors import grid_anchors
from edgeq.tasks.detection.detections import Detections


def whole(height: int, width: int) -> Placement:
    """Returns the placement of an image that is the input."""
    return Placement(width, height, width, height, 1, 1, 0, 0)


def decode(name: str, outputs: dict[str, Any], placement: Placement, **options: Any) -> Detections:
    return get_decoder(name)(outputs, Postprocessing(name, options=options), placement)


def test_raw_heads_of_torchvisions_ssd_are_decoded_with_its_anchors() -> None:
    torch = pytest.importorskip("torch")
    from torchvision.models.detection.image_list import ImageList

    from tests.models.detectors import SIZE, detector, normalised, pictures

    module: Any = detector("ssd")
    images = pictures(1)
    with torch.no_grad():
        (expected,) = module(list(images))
        maps = list(module.backbone(normalised(images)).values())
        heads = module.head(maps)
        (anchors,) = module.anchor_generator(ImageList(normalised(images), [SIZE]), maps)
    corners, sides = anchors.double().numpy(), np.array([SIZE[1], SIZE[0]])
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2 / sides, (corners[:, 2:] - corners[:, :2]) / sides
    options = {"score_threshold": 0.2, "iou_threshold": 0.45, "candidates": 20, "top_k": 50}
    outputs = {"boxes": heads["bbox_regression"].numpy(), "scores": heads["cls_logits"].numpy()}
    found = decode("ssd", outputs, whole(*SIZE), anchors=np.hstack([centres, sizes]).tolist(), **options)
    assert len(found) == len(expected["boxes"]) > 10
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-5)
    np.testing.assert_array_equal(found.classes + 1, expected["labels"])


def test_ultrafaces_raw_head_is_decoded_as_its_graph_does_it(shared_data: Path) -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    model = onnx.load(shared_data / "models" / "ultraface_rfb320.onnx")
    raw = ("459", "460")  # what its Softmax takes, and what its decoding of boxes starts with
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in raw)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    preset = load_preset("ultraface")
    image = read_image(sorted((shared_data / "coco" / "val2017").iterdir())[18])
    array, placement = preprocess(image, preset.preprocessing)
    outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"input": array}), strict=True))
    assert preset.postprocessing is not None
    expected = get_decoder("scored_boxes")(
        {name: outputs[name] for name in ("boxes", "scores")}, preset.postprocessing, placement
    )
    # No anchor is larger than the input, which is 320 wide and 240 high.
    sides = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
    found = decode(
        "ssd",
        {"boxes": outputs["460"], "scores": outputs["459"]},
        placement,
        strides=[8, 16, 32, 64],
        even_grid=True,
        cut_first=False,
        anchor_sizes=[[[side, min(side, 240)] for side in level] for level in sides],
        score_threshold=0.02,
        iou_threshold=0.3,
        candidates=1000,
        top_k=200,
    )
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_tensorflows_anchors_are_1917() -> None:
    post = load_preset("tf_ssd").postprocessing
    assert post is not None
    count = 1917
    outputs = {
        "raw_outputs/box_encodings": np.zeros((1, count, 1, 4), np.float32),
        "raw_outputs/class_predictions": np.zeros((1, count, 91), np.float32),
    }
    # The first cell of the second layer (10 x 10), its anchor of ratio 2, and the last anchor of all.
    outputs["raw_outputs/class_predictions"][0, [19 * 19 * 3 + 1, -1], [5, 90]] = 0.9, 0.8
    found = get_decoder("ssd")(outputs, post, whole(300, 300))
    scale, half_width, half_height = 0.35 * 300, 0.35 * 300 * 2**0.5 / 2, 0.35 * 300 / 2**0.5 / 2
    np.testing.assert_allclose(found.boxes[0], [0, 0, 15 + half_width, 15 + half_height], atol=1e-3)
    side = (0.95 * 1.0) ** 0.5 * 300 / 2
    np.testing.assert_allclose(found.boxes[1], [150 - side, 150 - side, 150 + side, 150 + side], atol=1e-3)
    assert scale == 105 and found.classes.tolist() == [4, 89]


def test_a_side_that_is_no_multiple_of_a_stride_has_one_more_cell() -> None:
    sizes = (((2.0, 4.0),),)
    full, even = (grid_anchors(8, 20, (8.0,), sizes, share) for share in (False, True))
    np.testing.assert_allclose(full[:, 0], [4, 12, 20])
    np.testing.assert_allclose(even[:, 0], np.array([0.5, 1.5, 2.5]) * 20 / 3)
    np.testing.assert_array_equal(full[:, 1:], [[4, 2, 4]] * 3)


def efficientdet_by_hand(boxes: np.ndarray, scores: np.ndarray, side: int) -> list[list[float]]:
    """EfficientDet's best box per class, anchor by anchor, as its paper's table of anchors says."""
    anchors = []
    for level in range(3, 8):
        stride = 2**level
        for row in range(side // stride):
            for column in range(side // stride):
                for octave in range(3):
                    for width, height in ((1, 1), (1.4, 0.7), (0.7, 1.4)):
                        base = 4 * stride * 2 ** (octave / 3)
                        anchors.append(((column + 0.5) * stride, (row + 0.5) * stride, base * width, base * height))
    found = []
    for label in range(scores.shape[2]):
        best = int(scores[0, :, label].argmax())
        y, x, log_height, log_width = boxes[0, best].astype(float)
        centre_x, centre_y, width, height = anchors[best]
        centre_x, centre_y = centre_x + x * width, centre_y + y * height
        half_width, half_height = np.exp(log_width) * width / 2, np.exp(log_height) * height / 2
        box = [centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height]
        found.append(np.clip(box, 0, side).tolist())
    return found


def test_efficientdets_anchors_lie_level_by_level() -> None:
    rng = np.random.default_rng(0)
    count = sum((128 // 2**level) ** 2 for level in range(3, 8)) * 9
    boxes = rng.normal(0, 0.5, (1, count, 4)).astype(np.float32)
    scores = rng.normal(-3, 1, (1, count, 5)).astype(np.float32)
    found = decode("efficientdet", {"boxes": boxes, "scores": scores}, whole(128, 128), nms="none", top_k=10_000)
    expected = efficientdet_by_hand(boxes, scores, 128)
    for label in range(5):
        first = int(np.flatnonzero(found.classes == label)[0])
        np.testing.assert_allclose(found.boxes[first], expected[label], atol=1e-3)
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-scores.max())))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "wanted the option 'anchors', or 'strides' above 0"),
        ({"anchors": [[0.5, 0.5, 1]]}, InputError, "has other rows than"),
        ({"anchors": [[0.5, 0.5, 1, 1], [0.5]]}, InputError, "has other rows than"),
        ({"anchors": [[0.5, 0.5, 1, 1]] * 3}, ModelError, "has 3 anchors for an input of 64x64, but .* 2 boxes"),
        ({"strides": [64], "anchor_sizes": [[[8, 8, 8]]]}, InputError, "1 strides and 1 lists"),
        ({"strides": [64], "anchor_sizes": [[[8, 8]]] * 2}, InputError, "1 strides and 2 lists"),
        ({"anchors": [[0.5, 0.5, 1, 1]] * 2, "order": "hwxy"}, InputError, "known: xywh, yxhw"),
        ({"anchors": [[0.5, 0.5, 1, 1]] * 2, "variances": [1]}, InputError, "wanted four numbers"),
        ({"anchors": [[0.5, 0.5, 1, 1]] * 2, "activation": "relu"}, InputError, "known: none, sigmoid, softmax"),
        ({"anchors": [[0.5, 0.5, 1, 1]] * 2, "background": 7}, InputError, r"column of scores in 0\.\.2"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    outputs = {"boxes": np.zeros((1, 2, 4), np.float32), "scores": np.zeros((1, 2, 3), np.float32)}
    with pytest.raises(error, match=message):
        decode("ssd", outputs, whole(64, 64), **options)


def test_other_shapes_are_refused() -> None:
    outputs = {"boxes": np.zeros((1, 2, 4), np.float32), "scores": np.zeros((1, 3, 3), np.float32)}
    with pytest.raises(ModelError, match=r"wanted boxes \(1, N, 4\) and scores \(1, N, columns\), found boxes \(1, 2"):
        decode("ssd", outputs, whole(64, 64), anchors=[[0.5, 0.5, 1, 1]] * 2)
