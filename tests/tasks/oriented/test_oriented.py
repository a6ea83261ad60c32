"""Oriented boxes: AP as pycocotools computes it for upright ones, and the same however all of them are turned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.packing import pack_array
from edgeq.tasks.detection.coco import evaluate, load_ground_truth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.oriented.boxes import OrientedBoxes, corners_of, yolo_obb
from edgeq.tasks.oriented.task import OrientedPredictions, OrientedTask
from edgeq.tasks.polygons import iou
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions

LABELS = ("plane", "ship", "none")
ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=LABELS)
IMAGES = 8


def turned(boxes: np.ndarray, degrees: float) -> np.ndarray:
    """Returns the corners of upright boxes `(N, 4)`, left, top, right, bottom, turned around a point elsewhere."""
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.asarray(corners_of(centred, np.zeros(len(boxes))) @ turn + 500)


def make(folder: Path, degrees: float) -> tuple[OrientedTask, dict[int, OrientedBoxes], dict[int, Detections]]:
    """Writes DOTA's files, and COCO's with the same boxes; returns results for both that are off by some pixels."""
    rng = np.random.default_rng(7)
    (folder / "truth").mkdir()
    (folder / "images").mkdir()
    annotations, oriented, upright = [], {}, {}
    for image in range(IMAGES):
        (folder / "images" / f"{image}.png").touch()
        count = int(rng.integers(0, 9))
        corner, size = rng.uniform(0, 100, (count, 2)), rng.uniform(10, 60, (count, 2))
        boxes, kinds = np.concatenate([corner, corner + size], axis=1), rng.integers(0, 2, count)
        lines = [
            " ".join([*(f"{value:.12g}" for value in corners.ravel()), LABELS[kind], "0"])
            for corners, kind in zip(turned(boxes, degrees), kinds, strict=True)
        ]
        (folder / "truth" / f"{image}.txt").write_text("imagesource:GoogleEarth\ngsd:0.1\n" + "\n".join(lines))
        annotations += [
            {"image_id": image, "category_id": int(kind), "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]}
            for box, kind in zip(boxes, kinds, strict=True)
        ]
        found = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), boxes[: count // 3]])
        scores = rng.random(len(found)).astype(np.float32)
        classes = np.concatenate([kinds, kinds[: count // 3]]).astype(np.int64)
        upright[image] = Detections(found.astype(np.float32), scores, classes)
        corners = turned(found.astype(np.float32).astype(np.float64), degrees)
        oriented[image] = OrientedBoxes(corners.astype(np.float32), scores, classes)
    document = {
        "images": [{"id": image, "file_name": f"{image}.png"} for image in range(IMAGES)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(LABELS)],
        "annotations": annotations,
    }
    (folder / "coco.json").write_text(json.dumps(document))
    return OrientedTask.from_files(folder / "truth", folder / "images", "pycocotools"), oriented, upright


@pytest.mark.parametrize("degrees", [0, 37])
def test_ap_is_that_of_pycocotools_however_boxes_are_turned(tmp_path, degrees):
    task, oriented, upright = make(tmp_path, degrees)
    task.check(ARTIFACT)
    score = task.score(ARTIFACT, oriented, {})
    wanted = evaluate(load_ground_truth(tmp_path / "coco.json"), upright, range(IMAGES))
    assert 0.2 < (wanted.numbers["AP"] or 0) < 0.9
    for name in ("AP", "AP50", "AP75"):
        assert score.numbers[name] == pytest.approx(wanted.numbers[name], abs=1e-9)
    assert [(each.name, each.objects) for each in score.per_class] == [
        (each.name, each.boxes) for each in wanted.per_class
    ]
    records = task.per_image(ARTIFACT, oriented, {})
    assert records.resampled("AP")[0] == pytest.approx(score.numbers["AP"])
    again = unpack_predictions(json.loads(json.dumps(pack_predictions(records))), OrientedPredictions)
    np.testing.assert_array_equal(again.resampled_classes(), records.resampled_classes())


def test_difficult_objects_count_neither_way(tmp_path, caplog):
    (tmp_path / "a.png").touch()
    (tmp_path / "sea.png").touch()
    (tmp_path / "a.txt").write_text("0 0 10 0 10 10 0 10 plane 0\n20 0 30 0 30 10 20 10 plane 1\n")
    task = OrientedTask.from_files(tmp_path, tmp_path, "pycocotools")
    assert "1 of 2 images have no file; they count as images without objects" in caplog.text
    corners = np.stack([[(x, 0), (x + 10, 0), (x + 10, 10), (x, 10)] for x in (20, 0)]).astype(np.float32)
    found = OrientedBoxes(corners, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    score = task.score(ARTIFACT, {0: found}, {})
    assert score.numbers["AP"] == pytest.approx(1)
    assert (score.per_class[0].objects, score.per_class[1].ap) == (1, None)
    nothing = OrientedBoxes(corners[:0], found.scores[:0], found.classes[:0])
    assert task.score(ARTIFACT, {0: nothing}, {}).numbers["AP"] == 0
    with pytest.raises(InputError, match="has objects of class 'plane', which net"):
        task.check(Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None, labels=("ship",)))


@pytest.mark.parametrize(
    "line", ["1 2 3", "a b c d e f g h plane 0", "0 0 1 0 1 1 0 nan plane 0", "0 0 1 0 1 1 0 1 plane x"]
)
def test_broken_lines_are_told(tmp_path, line):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(InputError, match=r"line 1 .*wanted x1 y1") as caught:
        OrientedTask.from_files(tmp_path, tmp_path, "pycocotools")
    assert "\n" not in str(caught.value)


def test_boxes_are_turned_from_x_to_y_and_suppressed_by_what_they_share():
    rows = np.array([
        [50, 50, 40, 10, 0.90, 0.1, 0.0],
        [50, 50, 40, 10, 0.80, 0.1, np.pi / 2],  # crosses the first
        [51, 50, 40, 10, 0.70, 0.1, 0.02],  # lies on the first
        [50, 50, 40, 10, 0.10, 0.6, 0.0],  # of the other class
    ], np.float32)  # fmt: skip
    place = Placement(200, 100, 100, 100, 0.5, 0.5, 0, 25)
    found = yolo_obb({"any": rows.T[None]}, Postprocessing("yolo-obb"), place)
    assert (found.scores.tolist(), found.classes.tolist()) == (pytest.approx([0.9, 0.8, 0.6]), [0, 0, 1])
    expected = [np.array([(60, 40), (140, 40), (140, 60), (60, 60)], float)]
    expected.append(np.array([(90, 10), (110, 10), (110, 90), (90, 90)], float))
    assert np.diag(iou(list(found.corners[:2].astype(float)), expected)) == pytest.approx([1, 1], abs=1e-5)
    slanted = yolo_obb(
        {"any": np.array([[50, 50, 40, 10, 0.9, np.pi / 6]], np.float32).T[None]}, Postprocessing("x"), place
    )
    first, second = slanted.corners[0, :2]
    assert (second - first) == pytest.approx([80 * np.cos(np.pi / 6), 40.0], abs=1e-3)
    with pytest.raises(ModelError, match=r"wanted predictions \(1, 5 \+ classes, N\)"):
        yolo_obb({"any": np.zeros((1, 5, 9))}, Postprocessing("yolo-obb"), place)


def test_boxes_that_the_model_chooses_are_taken_as_they_are():
    rng = np.random.default_rng(4)
    rows = rng.uniform(10, 90, (30, 4)).astype(np.float32)
    scores, angles = rng.random((30, 1)).astype(np.float32), rng.uniform(-1, 1, (30, 1)).astype(np.float32)
    place = Placement(200, 100, 100, 100, 0.5, 0.5, 0, 25)
    post = Postprocessing("yolo-obb", options={"iou_threshold": 1.0, "top_k": 20})
    other = np.zeros_like(scores)
    wanted = yolo_obb({"any": np.concatenate([rows, other, scores, angles], axis=1).T[None]}, post, place)
    found = yolo_obb({"any": np.concatenate([rows, scores, other + 1, angles], axis=1)[None]}, post, place)
    assert len(found.scores) == 20
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_of_many_boxes_those_are_left_that_no_better_one_overlaps():
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [rng.uniform(10, 60, (60, 2)), rng.uniform(8, 30, (60, 2)), rng.uniform(0, 1, (60, 2))], axis=1
    )
    rows = np.concatenate([rows, rng.uniform(0, 3, (60, 1))], axis=1).astype(np.float32)
    place = Placement(100, 100, 100, 100, 1, 1, 0, 0)
    post = Postprocessing("yolo-obb", options={"iou_threshold": 0.3, "score_threshold": 0})
    found = yolo_obb({"any": rows.T[None]}, post, place)
    best = np.argsort(-rows[:, 4:6].max(axis=1), kind="stable")
    corners = list(corners_of(rows[best, :4], rows[best, 6]))
    classes = rows[best, 4:6].argmax(axis=1)
    rivals = (iou(corners, corners) > 0.3) & (classes[:, None] == classes)
    left: list[int] = []
    for place_of in range(60):
        if not rivals[left, place_of].any():
            left.append(place_of)
    assert 5 < len(left) < 60
    np.testing.assert_array_equal(found.scores, rows[best[left], 4:6].max(axis=1))


def test_a_device_sends_boxes_and_broken_ones_are_refused():
    found = OrientedBoxes(np.zeros((2, 4, 2), np.float32), np.ones(2, np.float32), np.zeros(2, np.int64))
    packed = json.loads(json.dumps(pack_prediction(OrientedTask, found)))
    assert unpack_prediction(OrientedTask, packed).corners.shape == (2, 4, 2)
    for name, changed in (("corners", found.corners[:1]), ("classes", found.scores)):
        with pytest.raises(InputError, match="cannot be used for oriented-boxes"):
            unpack_prediction(OrientedTask, {**packed, name: pack_array(changed)})
