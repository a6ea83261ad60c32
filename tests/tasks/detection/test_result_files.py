"""What `edgeq predict` writes for other programs about boxes: YOLO's text files and COCO's results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.tasks.detection.result_files import CocoBoxes, YoloBoxes, shares
from edgeq.tasks.detection.task import DetectionTask
from edgeq.tasks.evidence import Box, Finding
from tests.sources.heads import COLOURS, save_squares

MODEL = Artifact(Path("m.onnx"), "onnx", "fp32", "x86", (), (), None, labels=COLOURS)
FOUND = [
    Box(label="blue", class_index=2, score=0.75, left=10.0, top=20.0, width=30.0, height=40.0),
    Finding(label="red", class_index=0, score=0.5),  # without a place
]

sides = st.floats(0.5, 5000, allow_nan=False)


@given(left=sides, top=sides, width=sides, height=sides, wide=sides, high=sides)
def test_shares_of_an_image_lead_back_to_the_box(left, top, width, height, wide, high):
    x, y, w, h = shares((left, top, width, height), (wide, high))
    back = ((x - w / 2) * wide, (y - h / 2) * high, w * wide, h * high)
    assert back == pytest.approx((left, top, width, height), rel=1e-9, abs=1e-6)


def test_yolos_files_lie_as_the_images_do(tmp_path):
    files = YoloBoxes(MODEL, None, tmp_path)
    files.add(0, "day/1.jpg", (100, 200), FOUND)
    files.add(1, "2.png", (100, 200), [])
    files.close()
    assert (tmp_path / "labels" / "day" / "1.txt").read_text() == "2 0.250000 0.200000 0.300000 0.200000 0.750000\n"
    assert (tmp_path / "labels" / "2.txt").read_text() == ""
    assert (tmp_path / "classes.txt").read_text().split() == list(COLOURS)


def test_cocos_results_have_the_ids_of_the_annotations(tmp_path):
    annotations, images = save_squares(tmp_path / "data")
    task = DetectionTask.from_files(annotations, images, "pycocotools")
    files = CocoBoxes(MODEL, task, tmp_path)
    files.add(1, "2.png", (100, 200), FOUND)
    files.close()
    ids = {each["name"]: each["id"] for each in json.loads(annotations.read_text())["categories"]}
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": task.image_ids[1], "category_id": ids["blue"], "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.75}
    ]


def test_cocos_results_need_annotations(tmp_path):
    with pytest.raises(InputError, match="give `annotations` or `data`"):
        CocoBoxes(MODEL, None, tmp_path)
