"""Detections that a graph has chosen itself: all the forms in which exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.inputs.presets import load_preset
from edgeq.tasks.detection.decoders import get_decoder

# An image of 100x80 in the top left corner of an input of 64x64.
PLACEMENT = Placement(100, 80, 64, 64, 0.5, 0.5, 0, 0)
BOXES = np.array([[10, 5, 30, 20], [20, 10, 60, 38], [0, 0, 0, 0]], np.float32)
SCORES = np.array([0.4, 0.9, 0.8], np.float32)
LABELS = np.array([3, 1, 0], np.int64)
FOUND = [([40, 20, 100, 76], 0.9), ([20, 10, 60, 40], 0.4)]


def decoded(outputs: dict[str, Any], post: Postprocessing) -> tuple[list[tuple[list[float], float]], list[int]]:
    found = get_decoder(post.decoder)(outputs, post, PLACEMENT)
    rows = zip(found.boxes.tolist(), found.scores.astype(float).round(4).tolist(), strict=True)
    return list(rows), found.classes.tolist()


def test_torchvisions_exported_form() -> None:
    preset = load_preset("faster_rcnn", (64, 64))
    assert preset.postprocessing is not None
    outputs = {"boxes": BOXES, "labels": LABELS, "scores": SCORES}
    rows, classes = decoded(outputs, preset.postprocessing)
    assert rows == [FOUND[0], ([0, 0, 0, 0], 0.8), FOUND[1]]
    assert [preset.labels[each] for each in classes] == ["person", "N/A", "car"]
    background = Postprocessing("detections", options={"first_class": 1})
    assert decoded(outputs, background) == (FOUND, [0, 2])


def test_tflites_post_processing() -> None:
    preset = load_preset("tflite_ssd", (64, 64))
    assert preset.postprocessing is not None
    name = "TFLite_Detection_PostProcess"
    outputs = {
        name: BOXES[None, :, [1, 0, 3, 2]] / 64,
        f"{name}:1": np.array([[2, 0, 0]], np.float32),
        f"{name}:2": SCORES[None],
        f"{name}:3": np.array([2], np.float32),
    }
    assert decoded(outputs, preset.postprocessing) == (FOUND, [0, 2])
    assert [preset.labels[each] for each in (0, 2, 89)] == ["person", "car", "toothbrush"]


def test_tensorrts_efficient_nms() -> None:
    preset = load_preset("efficient_nms", (64, 64))
    assert preset.postprocessing is not None
    outputs = {
        "num_dets": np.array([[2]], np.int32),
        "det_boxes": BOXES[None],
        "det_scores": SCORES[None],
        "det_classes": LABELS[None].astype(np.int32),
    }
    assert decoded(outputs, preset.postprocessing) == (FOUND, [1, 3])


@pytest.mark.parametrize(
    ("order", "boxes"),
    [
        ("xyxy", BOXES),
        ("xyxy", BOXES[:, [2, 3, 0, 1]]),
        ("yxyx", BOXES[:, [1, 0, 3, 2]]),
        ("xywh", np.hstack([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]])),
        ("cxcywh", np.hstack([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]])),
    ],
)
def test_the_four_numbers_come_in_any_order(order: str, boxes: np.ndarray) -> None:
    post = Postprocessing("detections", options={"order": order, "first_class": 1})
    assert decoded({"boxes": boxes, "labels": LABELS, "scores": SCORES}, post) == (FOUND, [0, 2])


def test_overlaps_may_be_suppressed_again() -> None:
    outputs = {"boxes": BOXES[[0, 0]], "labels": LABELS[[0, 0]], "scores": SCORES[:2]}
    assert len(decoded(outputs, Postprocessing("detections"))[1]) == 2
    assert len(decoded(outputs, Postprocessing("detections", options={"nms": "hard"}))[1]) == 1


@pytest.mark.parametrize("center_point_box", [0, 1])
def test_what_onnxs_operator_selects(center_point_box: int) -> None:
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    nms (float[1,N,4] boxes, float[1,C,N] scores) => (int64[M,3] selected_indices, float[1,N,4] b, float[1,C,N] s)
    <int64[1] most = {{99}}, float[1] iou = {{0.5}}, float[1] least = {{0.3}}> {{
      selected_indices = NonMaxSuppression <center_point_box = {center_point_box}> (boxes, scores, most, iou, least)
      b = Identity (boxes)
      s = Identity (scores)
    }}"""
    session = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString())
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 40, (40, 2, 2)).cumsum(axis=1).reshape(40, 4).astype(np.float32)
    given = corners[:, [1, 0, 3, 2]]
    if center_point_box:
        given = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])
    scores = rng.uniform(0, 1, (1, 3, 40)).astype(np.float32)
    selected, *_ = session.run(None, {"boxes": given[None], "scores": scores})
    outputs = {"boxes": given[None], "scores": scores, "selected_indices": np.vstack([selected, [[-1, -1, -1]]])}
    options = {"order": "cxcywh" if center_point_box else "yxyx"}
    placement = Placement(80, 80, 80, 80, 1, 1, 0, 0)
    found = get_decoder("selected_boxes")(outputs, Postprocessing("selected_boxes", options=options), placement)
    # The same boxes and scores through our own suppression.
    plain = {"boxes": corners[None], "scores": scores[0].T[None]}
    own = Postprocessing("scored_boxes", options={"score_threshold": 0.3, "iou_threshold": 0.5})
    expected = get_decoder("scored_boxes")(plain, own, placement)
    assert len(found) == len(expected) > 10
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
    np.testing.assert_array_equal(found.classes, expected.classes)


@pytest.mark.parametrize(
    ("name", "changed", "error", "message"),
    [
        ("detections", {"scores": SCORES[:2]}, ModelError, r"wanted boxes \(1, N, 4\), scores \(1, N\)"),
        ("detections", {"num_dets": np.array([1, 2])}, ModelError, "wanted one number as count"),
        ("selected_boxes", {}, ModelError, "has no output 'selected_indices' for the role 'selected'"),
        ("selected_boxes", {"selected_indices": np.zeros((2, 2))}, ModelError, r"selected \(M, 3\), found boxes"),
    ],
)
def test_other_shapes_are_refused(name: str, changed: dict[str, Any], error: type[Exception], message: str) -> None:
    outputs = {"boxes": BOXES, "labels": LABELS, "scores": SCORES} | changed
    with pytest.raises(error, match=message):
        decoded(outputs, Postprocessing(name))


def test_an_unknown_order_is_refused() -> None:
    outputs = {"boxes": BOXES, "labels": LABELS, "scores": SCORES}
    with pytest.raises(InputError, match="option 'order' is 'xxyy'; known: xyxy, yxyx, xywh, cxcywh"):
        decoded(outputs, Postprocessing("detections", options={"order": "xxyy"}))
