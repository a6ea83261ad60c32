"""From data sets to COCO's evaluation: classes by name, objects that do not count, and what LVIS did not look for."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.datasets import Split, open_split
from edgeq.errors import InputError
from edgeq.tasks.detection import Detections
from edgeq.tasks.detection.categories import category_ids, report_categories
from edgeq.tasks.detection.coco import evaluate
from edgeq.tasks.detection.ground_truth import ground_truth_of
from tests.datasets.written import coco_document, draw, put_images

CLASSES = ("red cell", "white cell", "platelet")


def write(folder: Path, changes: dict[str, Any] | None = None, **image: Any) -> Split:
    """Returns a red cell and a platelet, a white cell, and an image of nothing that the changes are made to."""
    shown = draw(folder / "drawn")
    put_images(shown, folder / "set")
    document = coco_document(shown, CLASSES)
    document["images"][2].update(image)
    for each in document["images"] if image else ():
        each.setdefault("neg_category_ids", [])
    if changes:
        document["annotations"].append({"image_id": 2, **changes})
    (folder / "set" / "all.json").write_text(json.dumps(document))
    return open_split(folder / "set", "evaluation")


def found(*objects: tuple[int, tuple[float, float, float, float], float]) -> Detections:
    """Returns detections of class index, left, top, right, bottom, and score."""
    return Detections(
        np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4),
        np.array([score for *_, score in objects], np.float32),
        np.array([index for index, *_ in objects], np.int64),
    )


RIGHT = {
    0: found((0, (2, 3, 12, 11), 0.9), (2, (20, 10, 24, 14), 0.9)),
    1: found((1, (0, 0, 40, 30), 0.9)),
}


def ap(split: Split, extra: Detections, labels: tuple[str, ...] = CLASSES) -> float:
    detections = {**RIGHT, 2: extra}
    value = evaluate(ground_truth_of(split), detections, [0, 1, 2], labels=labels).numbers["AP"]
    assert value is not None
    return value


WRONG = found((0, (1, 1, 30, 20), 0.95))


def test_an_ignored_object_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    assert ap(write(tmp_path / "plain"), WRONG) == pytest.approx((0.5 + 1 + 1) / 3, abs=0.01)
    ignored = write(tmp_path / "ignored", {"category_id": 1, "bbox": [0, 0, 32, 22], "iscrowd": 1})
    assert ap(ignored, WRONG) == pytest.approx(1)


def test_lvis_counts_only_what_was_looked_for(tmp_path: Path) -> None:
    assert ap(write(tmp_path / "unknown", neg_category_ids=[]), WRONG) == pytest.approx(1)
    assert ap(write(tmp_path / "absent", neg_category_ids=[1]), WRONG) == pytest.approx(2.5 / 3, abs=0.01)
    some = {"category_id": 1, "bbox": [30, 20, 5, 5]}
    missed = ap(write(tmp_path / "all", some, neg_category_ids=[]), WRONG)
    kept = ap(write(tmp_path / "some", some, neg_category_ids=[], not_exhaustive_category_ids=[1]), WRONG)
    assert missed < kept - 0.05  # the wrong one is ignored, the missed one is still missed
    assert kept == pytest.approx((0.5 + 1 + 1) / 3, abs=0.01)


def test_classes_are_matched_by_name_and_the_others_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split = write(tmp_path)
    labels = ("Red_Cell", "zebra", "Platelet", "white")
    truth = ground_truth_of(split)
    ids = category_ids(truth, labels)
    assert ids[[0, 2]].tolist() == [1, 3] and not set(ids[[1, 3]].tolist()) & {1, 2, 3}
    report_categories(truth, labels)
    assert "only in the model, not scored: zebra, white; only in the data, never detected: white cell" in caplog.text
    shifted = {0: RIGHT[0], 2: found((1, (0, 0, 9, 9), 0.9))}
    numbers = evaluate(truth, shifted, [0, 1, 2], labels=labels).numbers
    assert numbers["AP"] == pytest.approx(2 / 3)  # what only the model has is not scored, what only the data has is 0
    stated = dataclasses.replace(split, class_map={"white": "white cell"})
    assert category_ids(ground_truth_of(stated), labels).tolist()[3] == 2


def test_classes_without_names_are_taken_by_position_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = ground_truth_of(write(tmp_path))
    assert category_ids(truth, ()).tolist() == [1, 2, 3]
    report_categories(truth, ())
    assert "by position (0 = red cell, 1 = white cell, 2 = platelet); name them with `labels`" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        report_categories(truth, CLASSES)
    assert caplog.text == ""


def test_what_has_no_boxes_or_no_class_in_common_is_refused(tmp_path: Path) -> None:
    split = write(tmp_path)
    with pytest.raises(InputError, match=r"has no categories named 'cat' .*; found red cell, white cell, platelet\."):
        category_ids(ground_truth_of(split), ("cat", "dog"))
    bare = dataclasses.replace(split, images=tuple(dataclasses.replace(each, objects=()) for each in split.images))
    with pytest.raises(InputError, match="COCO with 3 images and no box"):
        ground_truth_of(bare)
