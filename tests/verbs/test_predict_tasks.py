"""`--data` through eval and predict for every task, pictures that differ, and files that other programs read."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgeq as package
from edgeq.datasets import Split, open_split
from edgeq.inputs.images import list_images, read_image
from edgeq.results.serialization import to_json
from edgeq.tasks import get_task
from edgeq.tasks.instances.task import InstanceTask
from edgeq.tasks.keypoints.task import KeypointTask
from edgeq.tasks.masks import to_rle
from edgeq.tasks.polygons import iou
from edgeq.tasks.shapes import Mask
from tests.verbs.drawn_models import MODELS, SIDE, class_map

MAIN = {
    "instance-segmentation": 1.0, "keypoints": 1.0, "oriented-boxes": 1.0, "semantic-segmentation": 1.0,
    "text-detection": 1.0, "text-recognition": 1.0, "depth": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("task", MODELS)
def test_a_task_is_scored_and_drawn_on_a_data_set(tmp_path: Path, task: str, edgeq: Any) -> None:
    save, write = MODELS[task]
    data = write(tmp_path / "data")
    files = [save(tmp_path, precision).path for precision in ("fp32", "int8")]
    scored = tmp_path / "scored.json"
    done = edgeq(
        "eval", *files, "--data", data, "--runtime", "onnxruntime", "--threads", 1, "--save-worst", 2,
        "--worst-dir", tmp_path / "worst", "--json", scored,
    )  # fmt: skip
    assert done.code == 0, done
    before, after = json.loads(scored.read_text())
    main = get_task(task).score_type.main
    assert (before["task"], before[main]) == (task, pytest.approx(MAIN[task], abs=0.02))
    assert task == "depth" or after[main] < before[main] - 0.2
    worst = list_images(tmp_path / "worst") if (tmp_path / "worst").exists() else []
    assert len(worst) == (0 if task == "depth" else 1), done
    for path in worst:
        height, width, _ = read_image(path).shape
        assert width > 2.5 * height  # three panels
    done = edgeq("predict", files[0], "--data", data, "--out", tmp_path / "out", "--compare", files[1], "--threads", 1)
    assert done.code == 0, done
    (picture,) = list_images(tmp_path / "out")
    assert read_image(picture).shape[1] > 2.5 * read_image(picture).shape[0]


@pytest.mark.parametrize("task", ["keypoints", "semantic-segmentation"])
def test_a_report_shows_what_differs(tmp_path: Path, task: str, edgeq: Any) -> None:
    save, write = MODELS[task]
    data = write(tmp_path / "data")
    files = [save(tmp_path, precision).path for precision in ("fp32", "int8")]
    scored, page = tmp_path / "scored.json", tmp_path / "report.html"
    results = package.evaluate(files, data=data, runtime="onnxruntime", threads=1)
    scored.write_text(json.dumps([to_json(each) for each in results]))
    assert edgeq("report", scored, "--images", data, "--out", page).code == 0
    assert page.read_text().count('<image class="found"') == 2
    edgeq("report", scored, "--out", tmp_path / "report.json")
    (shown,) = json.loads((tmp_path / "report.json").read_text())["differences"]
    (example,) = shown["examples"]
    assert (example["width_px"], example["height_px"]) == (SIDE, SIDE)
    assert "lost" in [each["mark"] for each in example["reference"]]
    # What comes from elsewhere is not trusted: masks fill their image, poses have keypoints.
    document = json.loads(scored.read_text())
    finding = document[0]["predictions"]["shown"][0]["found"][0]
    damage: dict[str, Any] = (
        {"points": []} if task == "keypoints" else {"segmentation": {"size": [9, 9], "counts": "0"}}
    )
    finding |= damage
    scored.write_text(json.dumps(document))
    assert "its predictions cannot be used" in edgeq("report", scored, "--out", page).error


def predicted(tmp_path: Path, task: str, *formats: str) -> tuple[Split, list[package.ImagePrediction]]:
    save, write = MODELS[task]
    data = write(tmp_path / "data")
    found = package.predict(
        save(tmp_path, "fp32").path, out=tmp_path / "out", data=data, format=formats, runtime="onnxruntime", threads=1
    )
    return open_split(data, "evaluation"), found


def coco_ap(truth: list[dict[str, Any]], results: Path, kind: str, **params: Any) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        categories = sorted({entry["category_id"] for entry in truth})
        coco.dataset = {
            "images": [{"id": 1, "width": SIDE, "height": SIDE}], "annotations": truth,
            "categories": [{"id": each} for each in categories],
        }  # fmt: skip
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(str(results)), kind)
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def lines(path: Path) -> list[list[float]]:
    return [[float(cell) for cell in line.split()] for line in path.read_text().splitlines()]


def test_masks_are_written_for_coco_and_yolo(tmp_path: Path) -> None:
    split, (prediction,) = predicted(tmp_path, "instance-segmentation", "yolo", "coco")
    task = InstanceTask.from_split(split, "pycocotools")
    assert coco_ap([dict(each) for each in task.annotations], tmp_path / "out" / "results.json", "segm") > 1 - 1e-9
    rows = lines(tmp_path / "out" / "labels" / "images" / "a.txt")
    assert [row[0] for row in rows] == [0, 1] and [row[-1] for row in rows] == pytest.approx([0.9, 0.8])
    for row, finding in zip(rows, prediction.findings, strict=True):
        assert isinstance(finding, Mask)
        polygon = (np.array(row[1:-1]) * SIDE).tolist()
        rle = to_rle([polygon], SIDE, SIDE, "")
        assert rle is not None
        assert rle["counts"].decode() == finding.segmentation.counts
    assert (tmp_path / "out" / "classes.txt").read_text().split() == ["cat", "dog"]


def test_keypoints_are_written_for_coco_and_yolo(tmp_path: Path) -> None:
    split, _ = predicted(tmp_path, "keypoints", "yolo", "coco")
    task = KeypointTask.from_split(split, "pycocotools")
    truth = [dict(each) for each in task.annotations]
    sigmas = np.full(3, 1 / 3)
    assert coco_ap(truth, tmp_path / "out" / "results.json", "keypoints", kpt_oks_sigmas=sigmas) > 1 - 1e-9
    first, second = lines(tmp_path / "out" / "labels" / "images" / "a.txt")
    np.testing.assert_allclose(np.array(first[5:14]).reshape(3, 3)[:, 0] * SIDE, [12, 28, 20], atol=1e-3)
    assert first[1:5] == pytest.approx([20 / 64, 20 / 64, 16 / 64, 12 / 64], abs=1e-5)
    assert len(first) == 15
    assert [first[-1], second[-1]] == pytest.approx([0.9, 0.8])


def test_oriented_boxes_and_text_are_written_as_corners(tmp_path: Path) -> None:
    split, _ = predicted(tmp_path / "obb", "oriented-boxes", "yolo")
    rows = lines(tmp_path / "obb" / "out" / "labels" / "images" / "a.txt")
    found = [np.reshape(row[1:9], (4, 2)) * SIDE for row in rows]
    truth = [np.reshape(each.polygons[0], (4, 2)) for each in split.images[0].objects]
    assert np.diag(iou(found, truth)) == pytest.approx([1, 1], abs=1e-3)
    predicted(tmp_path / "text", "text-detection", "icdar")
    written = (tmp_path / "text" / "out" / "icdar" / "res_a.txt").read_text().splitlines()
    assert len(written) == 2 and all(len(line.split(",")) == 8 for line in written)


def test_classes_of_pixels_are_written_as_a_mask_and_drawn(tmp_path: Path) -> None:
    _, (prediction,) = predicted(tmp_path, "semantic-segmentation", "png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "masks" / "images" / "a.png")), class_map())
    assert [(each.label, each.title) for each in prediction.findings] == [("sky", "sky 19.5%"), ("road", "road 17.2%")]
