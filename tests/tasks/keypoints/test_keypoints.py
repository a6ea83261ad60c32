"""Keypoints: decoders against their origins, OKS AP as pycocotools computes it, trained models on real images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.evaluation.prediction_codec import pack_prediction, unpack_prediction
from edgeq.exporting.artifact import Artifact, Postprocessing, Preprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.packing import pack_array
from edgeq.tasks.keypoints import decoders, yunet
from edgeq.tasks.keypoints.poses import Poses
from edgeq.tasks.keypoints.task import KeypointPredictions, KeypointTask
from edgeq.tasks.masks import decode as decode_mask
from edgeq.tasks.masks import to_rle
from edgeq.tasks.prediction_records import pack_predictions, unpack_predictions
from tests.golden import YUNET_BY_OPENCV

ARTIFACT = Artifact(Path("net.onnx"), "onnx", "fp32", "x86", (), (), None)
# An image of 200 x 100 pixels in an input of 100 x 50 cells, moved by (0, 25).
PLACE = Placement(200, 100, 100, 100, 0.5, 0.5, 0, 25)


# -- Decoders


def test_yolo_poses_are_suppressed_by_their_boxes():
    torch = pytest.importorskip("torch")
    from torchvision.ops import nms

    rng = np.random.default_rng(0)
    predictions = rng.uniform(0, 100, (1, 5 + 3 * 4, 60)).astype(np.float32)
    predictions[0, 4] = rng.random(60)
    predictions[0, 7::3] = rng.random((4, 60))
    found = decoders.yolo_pose({"any": predictions}, Postprocessing("yolo-pose", options={"top_k": 60}), PLACE)
    rows = torch.from_numpy(predictions[0].T.copy())
    boxes = torch.cat([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2], 1)
    kept = rows[nms(boxes, rows[:, 4], 0.7)].numpy()
    np.testing.assert_allclose(found.scores, kept[:, 4])
    points = kept[:, 5:].reshape(-1, 4, 3)
    np.testing.assert_allclose(found.points[:, :, 0], points[:, :, 0] * 2, rtol=1e-5)
    np.testing.assert_allclose(found.points[:, :, 1], (points[:, :, 1] - 25) * 2, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.points[:, :, 2], points[:, :, 2])


def test_an_image_without_a_pose_has_none():
    found = decoders.yolo_pose({"any": np.zeros((1, 5 + 3 * 17, 84), np.float32)}, Postprocessing("yolo-pose"), PLACE)
    assert found.points.shape == (0, 17, 3)


def test_poses_of_several_classes_may_lack_visibilities():
    rng = np.random.default_rng(6)
    one = rng.uniform(0, 100, (1, 5 + 3 * 4, 60)).astype(np.float32)
    one[0, 4], one[0, 7::3] = rng.random(60), 1
    second = np.arange(60) % 2 == 1
    scores = np.stack([np.where(second, 0, one[0, 4]), np.where(second, one[0, 4], 0)])
    points = np.delete(one[0, 5:], slice(2, None, 3), axis=0)
    several = np.concatenate([one[0, :4], scores, points])[None].astype(np.float32)
    limits = {"iou_threshold": 1.0, "top_k": 60}
    wanted = decoders.yolo_pose({"any": one}, Postprocessing("yolo-pose", options=limits), PLACE)
    post = Postprocessing("yolo-pose", options={**limits, "classes": 2, "numbers": 2})
    found = decoders.yolo_pose({"any": several}, post, PLACE)
    np.testing.assert_array_equal(found.points, wanted.points)
    assert found.classes.tolist() == second[np.argsort(-one[0, 4], kind="stable")].astype(int).tolist()


def test_poses_that_the_model_chooses_are_taken_as_they_are():
    rng = np.random.default_rng(3)
    rows = rng.uniform(0, 100, (1, 5 + 3 * 4, 60)).astype(np.float32)
    rows[0, 4], rows[0, 7::3] = rng.random(60), rng.random((4, 60))
    post = Postprocessing("yolo-pose", options={"iou_threshold": 1.0, "top_k": 25})
    wanted = decoders.yolo_pose({"any": rows}, post, PLACE)
    chosen = np.concatenate([rows[0, :5], np.zeros((1, 60)), rows[0, 5:]]).T.astype(np.float32)
    found = decoders.yolo_pose({"any": chosen[None]}, post, PLACE)
    assert len(found.scores) == 25
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_keypoint_rcnn_counts_labels_from_its_offset():
    keypoints = np.arange(3 * 2 * 3, dtype=np.float32).reshape(3, 2, 3)
    outputs = {
        "boxes": np.zeros((3, 4)), "scores": np.array([0.3, 0.9, 0.01]), "labels": np.array([2, 1, 1]),
        "keypoints": keypoints,
    }  # fmt: skip
    found = decoders.keypoint_rcnn(outputs, Postprocessing("keypoint-rcnn"), PLACE)
    assert (found.classes.tolist(), found.scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.3]))
    np.testing.assert_allclose(found.points[:, :, :2], (keypoints[[1, 0], :, :2] - (0, 25)) * 2)


def test_a_keypoint_is_a_quarter_of_a_cell_towards_the_higher_neighbour():
    maps = np.random.default_rng(1).random((1, 30, 10, 20)).astype(np.float32)
    found = decoders.heatmaps({"maps": maps}, Postprocessing("heatmaps"), PLACE)
    for number, plane in enumerate(maps[0]):
        row, column = (int(index) for index in np.unravel_index(plane.argmax(), plane.shape))
        x, y = float(column), float(row)
        if 1 < column < 19 and 1 < row < 9:
            x += 0.25 if plane[row, column + 1] > plane[row, column - 1] else -0.25
            y += 0.25 if plane[row + 1, column] > plane[row - 1, column] else -0.25
        assert found.points[0, number] == pytest.approx([x * 5 * 2, (y * 10 - 25) * 2, plane.max()], abs=1e-4)
    assert found.scores == pytest.approx(maps.max(axis=(2, 3)).mean())


@pytest.mark.parametrize("shape", [(1, 1, 17, 3), (1, 3, 1, 17)])
def test_movenet_gives_parts_of_the_input(shape):
    rows = np.random.default_rng(2).random((17, 3)).astype(np.float32)
    array = rows.reshape(shape) if shape[3] == 3 else rows.T.reshape(shape)
    found = decoders.movenet({"out": array}, Postprocessing("movenet"), PLACE)
    np.testing.assert_allclose(found.points[0, :, 0], rows[:, 1] * 200, rtol=1e-5)
    np.testing.assert_allclose(found.points[0, :, 1], (rows[:, 0] * 100 - 25) * 2, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("decode", "outputs"),
    [
        (decoders.yolo_pose, {"a": np.zeros((1, 9, 5))}),
        (decoders.heatmaps, {"a": np.zeros((2, 3, 4, 5))}),
        (decoders.movenet, {"a": np.zeros((1, 1, 17, 2))}),
        (decoders.keypoint_rcnn, {name: np.zeros((2, 3)) for name in ("boxes", "scores", "labels", "keypoints")}),
    ],
)
def test_other_shapes_and_numbers_are_refused(decode, outputs):
    with pytest.raises(ModelError, match="wanted "):
        decode(outputs, Postprocessing("a-decoder"), PLACE)
    with pytest.raises(ModelError, match="not finite"):
        decoders.heatmaps({"a": np.full((1, 3, 4, 5), np.nan)}, Postprocessing("heatmaps"), PLACE)


# -- Trained models


def test_yunet_finds_the_landmarks_that_opencv_finds(shared_data):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(shared_data / "models" / "yunet_n_320.onnx", options)
    spec = Preprocessing(320, 320, "letterbox", channel_order="bgr", scale=1.0)
    for name, faces in YUNET_BY_OPENCV.items():
        array, place = preprocess(read_image(shared_data / "coco" / "val2017" / f"{name}.jpg"), spec)
        outputs = session.run(None, {"input": np.rint(array)})  # OpenCV takes whole pixels
        outputs = dict(zip([each.name for each in session.get_outputs()], outputs, strict=True))
        post = Postprocessing("yunet-landmarks", options={"score_threshold": 0.6})
        found = yunet.decode(outputs, post, place)
        assert len(found.scores) == len(faces)
        for points, (score, wanted), value in zip(found.points, faces, found.scores, strict=True):
            assert value == pytest.approx(score, abs=2e-3)
            np.testing.assert_allclose(points[:, :2], wanted, atol=0.1)
    with pytest.raises(ModelError, match="of 100 cells at stride 32"):
        yunet.decode({**outputs, "kps_32": np.zeros((1, 99, 10))}, post, place)


def test_movenet_finds_keypoints_on_persons(shared_data):
    """Google's MoveNet for the Edge TPU, 8 bits, on COCO images with one person: its keypoints lie on the person."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    coco = shared_data / "coco"
    document = json.loads((coco / "instances_val.json").read_text())
    persons: dict[int, list[Any]] = {}
    for entry in document["annotations"]:
        if entry["category_id"] == 1:
            persons.setdefault(entry["image_id"], []).append(entry)
    model = litert.Interpreter(
        str(shared_data / "weights" / "coral_movenet_single_pose_lightning_ptq.tflite"), num_threads=1
    )
    model.allocate_tensors()
    spec = Preprocessing(192, 192, "center", scale=1.0)
    inside = confident = 0
    for image in document["images"]:
        found = persons.get(image["id"], [])
        size = image["width"], image["height"]
        if len(found) != 1 or found[0]["iscrowd"] or found[0]["area"] < 0.1 * size[0] * size[1]:
            continue
        array, place = preprocess(read_image(coco / "val2017" / image["file_name"]), spec)
        model.set_tensor(model.get_input_details()[0]["index"], array.transpose(0, 2, 3, 1).astype(np.uint8))
        model.invoke()
        output = model.get_tensor(model.get_output_details()[0]["index"])
        (points,) = decoders.movenet({"out": output}, Postprocessing("movenet"), place).points
        rle = to_rle(found[0]["segmentation"], *size, "")
        assert rle is not None
        mask = decode_mask(rle)
        for x, y, score in points.tolist():
            if score > 0.4:
                confident += 1
                inside += bool(mask[min(max(int(y), 0), size[1] - 1), min(max(int(x), 0), size[0] - 1)])
    assert confident > 60
    assert inside / confident > 0.85


# -- Scores


def made(folder: Path, seed: int, count: int = 17) -> tuple[Path, dict[int, Poses]]:
    """Annotations of random poses in six images, and results near them."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    images, found = [], {}
    for image in range(6):
        images.append({"id": 10 - image, "file_name": f"{image}.png", "width": 300, "height": 200})
        (folder / f"{image}.png").touch()
        results, scores, classes = [], [], []
        for _ in range(rng.integers(0, 6)):
            side = rng.choice([25, 60, 150])
            points = np.concatenate([rng.uniform(0, side, (count, 2)), rng.integers(0, 3, (count, 1))], axis=1)
            points[points[:, 2] == 0] = 0
            annotations.append({
                "id": len(annotations), "image_id": 10 - image, "category_id": int(rng.integers(1, 3)),
                "bbox": [0, 0, float(side), float(side)], "area": float(side) ** 2 * 0.6,
                "iscrowd": int(rng.random() < 0.1), "keypoints": points.ravel().tolist(),
                "num_keypoints": int((points[:, 2] > 0).sum()),
            })  # fmt: skip
            results.append(points[:, :2] + rng.normal(0, side * rng.choice([0.01, 0.03, 0.2]), (count, 2)))
            scores.append(rng.random())
            classes.append(annotations[-1]["category_id"] - 1 if rng.random() < 0.8 else 0)
        placed = np.concatenate([np.reshape(results, (-1, count, 2)), np.ones((len(scores), count, 1))], axis=2)
        found[image] = Poses(np.array(scores, np.float32), np.array(classes, np.int64), placed.astype(np.float32))
    document = {
        "images": images, "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "robot"}],
    }  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(document))
    return folder / "truth.json", found


@pytest.mark.parametrize("engine", ["pycocotools", "faster"])
def test_scores_are_those_of_pycocotools(tmp_path, engine, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if engine == "faster":
        pytest.importorskip("faster_coco_eval")
    source, found = made(tmp_path, 3)
    document = json.loads(source.read_text())
    for number, entry in enumerate(document["annotations"], start=1):
        entry["id"] = number  # pycocotools takes a match with id 0 for none
    truth = COCO()
    truth.dataset = document
    truth.createIndex()
    results = [
        {"image_id": 10 - image, "category_id": label + 1, "keypoints": points.ravel().tolist(), "score": score}
        for image, poses in found.items()
        for points, label, score in zip(
            poses.points.astype(float), poses.classes.tolist(), poses.scores.tolist(), strict=True
        )
    ]
    evaluator = COCOeval(truth, truth.loadRes(results), "keypoints")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    capsys.readouterr()
    task = KeypointTask.from_files(source, tmp_path, engine)
    score = task.score(ARTIFACT, found, {})
    names = [f"{kind}{part}" for kind in ("AP", "AR") for part in ("", "50", "75", "_medium", "_large")]
    assert [score.numbers[name] for name in names] == pytest.approx(evaluator.stats.tolist(), abs=1e-12)
    assert 0.1 < evaluator.stats[0] < 0.9
    assert [each.name for each in score.classes] == ["person", "robot"]
    predictions = task.per_image(ARTIFACT, found, {})
    for name in ("AP", "AP_medium", "AP_large"):
        assert predictions.resampled(name)[0] == pytest.approx(score.numbers[name], abs=1e-12)
    packed = json.loads(json.dumps(pack_predictions(predictions)))
    again = unpack_predictions(packed, KeypointPredictions)
    np.testing.assert_array_equal(again.resampled_classes(), predictions.resampled_classes())


def test_the_mean_error_is_in_parts_of_the_box(tmp_path):
    """Five landmarks: each may be off by a fifth of the object's size, and every one is off by 3 pixels here."""
    points = [[10, 10, 2], [30, 10, 2], [20, 20, 2], [12, 30, 2], [0, 0, 0]]
    face = {
        "image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30], "area": 900, "keypoints": np.ravel(points).tolist(),
    }  # fmt: skip
    document = {
        "images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "face"}], "annotations": [face],
    }  # fmt: skip
    (tmp_path / "a.png").touch()
    (tmp_path / "truth.json").write_text(json.dumps(document))
    task = KeypointTask.from_files(tmp_path / "truth.json", tmp_path, "pycocotools")
    moved = np.array(points, np.float32)[None] + np.array([3, 0, 0], np.float32)
    found = Poses(np.ones(1, np.float32), np.zeros(1, np.int64), moved)
    score = task.score(ARTIFACT, {0: found}, {})
    assert score.nme == pytest.approx(3 / 30)
    similarity = np.exp(-(3**2) / (2 * 900 * (2 / 5) ** 2))  # pycocotools' variance is (2 sigma) squared
    passed = similarity >= np.linspace(0.5, 0.95, 10)
    assert score.numbers["AP"] == pytest.approx(passed.mean())
    with pytest.raises(InputError, match="have 5 keypoints, and the model finds 4"):
        task.score(ARTIFACT, {0: Poses(found.scores, found.classes, found.points[:, :4])}, {})
    nothing = Poses(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 5, 3), np.float32))
    empty = task.score(ARTIFACT, {0: nothing}, {})
    assert (empty.AP, empty.nme) == (0, None)


@pytest.mark.parametrize("keypoints", [[], [1, 2], [1, 2, 3, 4]])
def test_annotations_without_keypoints_are_refused(tmp_path, keypoints):
    source, _ = made(tmp_path, 3)
    document = json.loads(source.read_text())
    for entry in document["annotations"]:
        entry["keypoints"] = keypoints
    source.write_text(json.dumps(document))
    with pytest.raises(InputError, match="wanted keypoints, x, y and visibility"):
        KeypointTask.from_files(source, tmp_path, "pycocotools")


def test_a_device_sends_poses_and_broken_ones_are_refused(tmp_path):
    _, found = made(tmp_path, 3)
    packed = json.loads(json.dumps(pack_prediction(KeypointTask, found[1])))
    np.testing.assert_array_equal(unpack_prediction(KeypointTask, packed).points, found[1].points)
    for name, changed in (("points", found[1].points[:, :, :2]), ("scores", found[1].scores[:-1])):
        with pytest.raises(InputError, match="cannot be used for keypoints"):
            unpack_prediction(KeypointTask, {**packed, name: pack_array(changed)})
