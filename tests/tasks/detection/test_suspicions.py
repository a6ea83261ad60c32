"""What odd figures of boxes are told by, each with the situation that causes it; sound models are not suspected."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.exporting.artifact import Artifact, Preprocessing
from edgeq.inputs.presets import shipped_labels
from edgeq.results.evaluation import Suspicion
from edgeq.tasks import get_task
from edgeq.tasks.detection.coco import GroundTruth, evaluate, load_ground_truth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.suspicions import find_suspicions, suspect_findings
from edgeq.tasks.detection.task import DetectionTask
from tests.sources.heads import COLOURS, save_squares


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_squares(tmp_path_factory.mktemp("squares") / "data")


def suspicions(
    squares: tuple[Path, Path], quantized: bool = False, ap: float | None = 0.0, **changes: Any
) -> list[Suspicion]:
    """Returns what is said about perfect detections, changed in one way."""
    truth = load_ground_truth(squares[0])
    found = {}
    for image in truth.images:
        entries = [entry for entry in truth.annotations if entry["image_id"] == image.id]
        boxes = np.array([entry["bbox"] for entry in entries], np.float32)
        boxes[:, 2:] += boxes[:, :2]
        detections = Detections(
            boxes, np.full(len(boxes), 0.9, np.float32), np.array([entry["category_id"] for entry in entries])
        )
        found[image.id] = dataclasses.replace(
            detections, **{name: change(getattr(detections, name)) for name, change in changes.items()}
        )
    return find_suspicions(truth, found, ap, labels=COLOURS, quantized=quantized)


def test_none_fires_on_a_sound_model(squares: tuple[Path, Path]) -> None:
    assert suspicions(squares, ap=1.0) == []
    assert suspicions(squares, ap=0.2, scores=lambda scores: scores / 4) == []
    assert suspicions(squares, ap=None) == []


@pytest.mark.parametrize(
    ("changes", "text", "meaningless"),
    [
        ({"scores": lambda scores: scores * 0.02}, "no box scores 0.05 on 6 images", True),
        ({"scores": lambda scores: scores * 0 + 1}, "100% of the boxes score 1 or more, as logits do", True),
        (
            {"boxes": lambda boxes: boxes * 0},
            "100% of the boxes are outside their image, or smaller than 4 square",
            True,
        ),
        ({"boxes": lambda boxes: boxes / 64}, "in other units than the decoder expects", True),
        ({"boxes": lambda boxes: boxes + 20}, "AP is 0.0000: none of 36 boxes that score 0.05 or more is where", True),
    ],
)
def test_each_situation_is_told(squares: tuple[Path, Path], changes: Any, text: str, meaningless: bool) -> None:
    found = suspicions(squares, **changes)
    assert any(text in each.text and each.meaningless == meaningless for each in found)


def coco_like(folder: Path, names: Sequence[str]) -> GroundTruth:
    """Writes 40 images with a box of another class each."""
    box = {"bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(40)],
        "annotations": [box | {"id": n + 1, "image_id": n, "category_id": n} for n in range(40)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    (folder / "val.json").write_text(json.dumps(document))
    return load_ground_truth(folder / "val.json")


@pytest.mark.parametrize(
    ("share", "options", "told"),
    [
        (10, {}, True),
        (10, {"quantized": True}, False),
        (10, {"published_ap": None}, False),
        (10, {"classes": tuple(f"class {n}" for n in range(80))}, False),
        (4, {}, False),
    ],
)
def test_a_float_model_far_below_its_family_is_told(
    share: int, options: dict[str, Any], told: bool, tmp_path: Path
) -> None:
    """Boxes are in the right place on one image of `share`: more than nothing."""
    names = options.pop("classes", shipped_labels("coco80"))
    truth = coco_like(tmp_path, names)
    found = {
        n: Detections(
            np.array([[10, 10, 50, 50]] if n % share == 0 else [[60, 60, 90, 90]], np.float32),
            np.full(1, 0.9, np.float32),
            np.array([n]),
        )
        for n in range(40)
    }
    stated: dict[str, Any] = {"quantized": False, "published_ap": (0.258, 0.511)} | options
    suspicions = find_suspicions(truth, found, evaluate(truth, found, range(40)).numbers["AP"], labels=names, **stated)
    assert [each.meaningless for each in suspicions] == [False] * told
    if told:
        text = suspicions[0].text
        assert "AP is 0.1000, and the family's published models reach 0.258 to 0.511 on COCO val2017" in text
        assert "`preset` NAME,channel_order=bgr" in text


def test_one_class_only_is_told_and_figures_of_quantized_files_may_be_so_bad(squares: tuple[Path, Path]) -> None:
    (found,) = suspicions(squares, ap=0.1, classes=lambda classes: classes * 0)
    assert "all 36 boxes are of the class red, the annotations have 3 classes" in found.text
    assert not found.meaningless
    assert not any(
        each.meaningless for each in suspicions(squares, quantized=True, scores=lambda scores: scores * 0.02)
    )


@pytest.mark.parametrize(
    ("score", "ap", "quantized", "text"),
    [
        (0.01, 0.0, False, "no mask scores 0.05 on 4 images (the best of 40 scores 0.01)"),
        (0.3, 0.0, False, "AP is 0.0000: none of 40 masks that score 0.05 or more"),
        (0.3, 0.0, True, "AP is 0.0000: none of 40 masks"),
        (0.3, 0.2, False, ""),
        (0.3, None, False, ""),
    ],
)
def test_findings_of_any_form_are_suspected(score: float, ap: float | None, quantized: bool, text: str) -> None:
    nothing = Detections(np.zeros((10, 4), np.float32), np.full(10, score, np.float32), np.zeros(10, np.int64))
    found = suspect_findings(("mask", "masks"), [nothing] * 4, ap, quantized=quantized)
    assert [each.meaningless for each in found] == ([not quantized] if text else [])
    assert all(each.text.startswith(text) for each in found)
    for task in ("instance-segmentation", "keypoints", "oriented-boxes"):
        assert "suspicions" in vars(get_task(task))


def test_tasks_suspect_nothing_by_default() -> None:
    from edgeq.tasks.classification.task import ClassificationTask

    assert "suspicions" in vars(DetectionTask) and "suspicions" not in vars(ClassificationTask)
    artifact = Artifact(Path("a.onnx"), "onnx", "fp32", "x86", (), (), Preprocessing(8, 8))
    assert ClassificationTask.suspicions(None, artifact, {}, None) == ()  # type: ignore[arg-type]
