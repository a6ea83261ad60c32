"""AP over choices of the images against pycocotools, which is given copies of the images instead."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tasks.detection import average_precision
from edgeq.tasks.detection.average_precision import AREAS, class_ap, match
from edgeq.tasks.detection.categories import category_ids
from edgeq.tasks.detection.coco import GroundTruth, evaluate, load_ground_truth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.records import DetectionPredictions
from edgeq.tasks.resampling import mean_present
from tests.reporting.made import make_detections, make_ground_truth, make_predictions
from tests.tasks.detection.test_coco import mlperf_detections

NAMES = {"all": "AP", "small": "AP_small", "medium": "AP_medium", "large": "AP_large"}


def assert_equal_to_pycocotools(truth: GroundTruth, detections: dict[int, Detections]) -> None:
    predictions = make_predictions(truth, detections)
    scores = evaluate(truth, detections, sorted(detections))
    matches = match(predictions)
    once = np.ones((len(predictions.images), 1), np.int64)
    for area in AREAS:
        per_class = np.stack([class_ap(each, once).mean(axis=0)[0] for each in matches[area]])
        wanted = scores.numbers[NAMES[area]]
        assert mean_present(per_class) == pytest.approx(np.nan if wanted is None else wanted, abs=1e-12, nan_ok=True)
        if area == "all":
            classes = [np.nan if entry.ap is None else entry.ap for entry in scores.per_class]
            assert per_class.tolist() == pytest.approx(classes, abs=1e-12, nan_ok=True)


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 12), steps=st.sampled_from([3, 20, 1000]))
@settings(max_examples=25, deadline=None)
def test_all_images_give_the_numbers_of_pycocotools(seed, noise, steps):
    truth = make_ground_truth(15, seed)
    assert_equal_to_pycocotools(truth, make_detections(truth, seed + 1, noise, steps))


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 3), min_size=8, max_size=8).filter(any))
@settings(max_examples=25, deadline=None)
def test_an_image_drawn_twice_counts_like_two_copies(seed, counts):
    truth = make_ground_truth(8, seed)
    detections = make_detections(truth, seed + 1, 6, steps=1 << 24)
    copied, copies = _copies(truth, detections, counts)
    wanted = evaluate(copied, copies, sorted(copies)).numbers
    weights = np.array(counts, np.int64)[:, None]
    matches = match(make_predictions(truth, detections))
    for area in AREAS:
        found = mean_present(np.stack([class_ap(each, weights).mean(axis=0) for each in matches[area]]))[0]
        expected = wanted[NAMES[area]]
        assert found == pytest.approx(np.nan if expected is None else expected, abs=1e-12, nan_ok=True)


def _copies(truth, detections, counts):
    """The images by ascending id, each as often as it is drawn, its copies next to each other."""
    records = {record.id: record for record in truth.images}
    drawn = [image for image, count in zip(sorted(records), counts, strict=True) for _ in range(count)]
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(drawn):
        for entry in truth.annotations:
            if entry["image_id"] == image:
                annotations.append({**entry, "image_id": number, "id": len(annotations) + 1})
    images = tuple(records[image]._replace(id=number) for number, image in enumerate(drawn))
    copied = dataclasses.replace(truth, images=images, annotations=tuple(annotations))
    return copied, {number: detections[image] for number, image in enumerate(drawn)}


def test_draws_in_pieces_are_the_same(monkeypatch):
    truth = make_ground_truth(8, 3)
    (first, *_) = match(make_predictions(truth, make_detections(truth, 4, 6)))["all"]
    weights = np.random.default_rng(0).integers(0, 3, (8, 50))
    whole = class_ap(first, weights)
    monkeypatch.setattr(average_precision, "_MAX_VALUES", 7 * len(first.images))
    assert np.array_equal(class_ap(first, weights), whole, equal_nan=True)


def test_a_draw_without_a_class_leaves_it_out_of_the_mean():
    per_class = np.array([[0.5, 0.25], [np.nan, 0.75], [np.nan, np.nan]])
    assert mean_present(per_class).tolist() == [0.5, 0.5]
    assert np.isnan(mean_present(per_class[2:])).all()


def test_equal_to_pycocotools_on_real_detections(shared_data):
    """A system's detections, submitted to MLPerf, on the 88 images of COCO."""
    truth = load_ground_truth(shared_data / "coco" / "instances_val.json")
    folder = shared_data / "mlperf_detections"
    detections = mlperf_detections(sorted(folder.glob("*.npz"))[0], truth, folder)
    assert sum(len(found) for found in detections.values()) > 400
    assert_equal_to_pycocotools(truth, detections)


def test_categories_are_found_by_their_ids():
    truth = make_ground_truth(3)
    assert category_ids(truth, ()).tolist() == [1, 4, 7]
    assert isinstance(make_predictions(truth, make_detections(truth, 0, 1)), DetectionPredictions)
