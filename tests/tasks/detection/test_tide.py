"""TIDE's kinds of error: equal to the published tool's (tidecv 1.0.1) on real detections, and each in one situation."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tasks.detection.coco import GroundTruth, evaluate, load_ground_truth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.tide import KINDS, judge
from tests.reporting.made import make_detections, make_ground_truth, make_predictions
from tests.tasks.detection.test_coco import mlperf_detections

# AP50 in points, then count and dAP in points of each kind: tidecv.TIDE().evaluate(...), box mode, its own thresholds,
# on the 88 images, without crowds and without detections of classes that the images do not hold.
TIDECV = {
    "dividiti_cpu_fp32_ssd-mobilenet-v1": (
        36.2752, {"classification": (25, 3.6071), "localisation": (76, 2.3334), "both": (22, 0.1181),
                  "duplicate": (11, 0.0479), "background": (61, 0.1842), "missed": (487, 36.1293)},
    ),
    "nvidia_Xavier_trt_int8_ssd-mobilenet": (
        36.9541, {"classification": (26, 3.5595), "localisation": (67, 2.3304), "both": (19, 0.0940),
                  "duplicate": (14, 0.0907), "background": (62, 0.1820), "missed": (485, 35.5210)},
    ),
    "dividiti_cpu_fp32_ssd-resnet50-fpn": (
        59.1157, {"classification": (56, 2.3799), "localisation": (191, 4.6586), "both": (35, 0.2227),
                  "duplicate": (69, 0.1112), "background": (141, 1.5219), "missed": (278, 20.0480)},
    ),
}  # fmt: skip
# Where scores are equal, the tool orders detections otherwise after a correction than before it.
TOLERANCE_POINTS = 0.01


def without_crowds(truth: GroundTruth) -> GroundTruth:
    kept = tuple(entry for entry in truth.annotations if not entry["iscrowd"])
    return dataclasses.replace(truth, annotations=kept)


@pytest.mark.parametrize("system", TIDECV)
def test_counts_and_costs_are_those_of_the_published_tool(shared_data, system):
    truth = without_crowds(load_ground_truth(shared_data / "coco" / "instances_val.json"))
    folder = shared_data / "mlperf_detections"
    order = list(truth.categories)
    present = [order.index(entry["category_id"]) for entry in truth.annotations]
    detections = {}
    for image, found in mlperf_detections(folder / f"{system}.npz", truth, folder).items():
        kept = np.isin(found.classes, present)
        detections[image] = Detections(found.boxes[kept], found.scores[kept], found.classes[kept])
    verdicts = judge(make_predictions(truth, detections))
    ap50, kinds = TIDECV[system]
    assert 100 * verdicts.average_precision() == pytest.approx(ap50, abs=1e-3)
    errors = {error.kind: error for error in verdicts.errors()}
    assert {kind: error.count for kind, error in errors.items()} == {kind: count for kind, (count, _) in kinds.items()}
    assert {kind: 100 * error.cost for kind, error in errors.items()} == {
        kind: pytest.approx(cost, abs=TOLERANCE_POINTS) for kind, (_, cost) in kinds.items()
    }


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 12))
@settings(max_examples=20, deadline=None)
def test_ap_is_cocos_and_every_detection_has_one_verdict(seed, noise):
    truth = make_ground_truth(12, seed)
    detections = make_detections(truth, seed + 1, noise, steps=1 << 24)
    verdicts = judge(make_predictions(truth, detections))
    wanted = evaluate(truth, detections, sorted(detections)).numbers["AP50"]
    assert verdicts.average_precision() == pytest.approx(wanted or 0.0, abs=1e-9)
    hits = int((verdicts.kinds == "hit").sum())
    assert hits == int(verdicts.found.sum())
    ignored = int((verdicts.kinds == "ignored").sum())
    wrong = sum(error.count for error in verdicts.errors() if error.kind != "missed")
    assert hits + ignored + wrong == sum(len(found) for found in detections.values())


SITUATIONS = {
    # Kind -> boxes found beside the right one of the cat at (20, 20, 120, 120): corners, score, class.
    "localisation": ((20, 20, 60, 120), 0.9, 1, True),  # IoU .4 with the dog's own box
    "classification": ((22, 20, 120, 120), 0.9, 1, False),
    "duplicate": ((24, 20, 120, 120), 0.5, 0, False),
    "background": ((150, 150, 190, 190), 0.9, 0, False),
    "both": ((20, 20, 60, 120), 0.9, 1, False),
}


@pytest.mark.parametrize("kind", SITUATIONS)
def test_each_kind_in_the_situation_that_it_is_named_after(kind):
    corners, score, label, dog = SITUATIONS[kind]
    truth = make_ground_truth(1, 0)
    place: dict[str, Any] = {"image_id": truth.images[0].id, "bbox": [20, 20, 100, 100], "area": 1e4, "iscrowd": 0}
    cat = {**place, "id": 1, "category_id": 1}
    entries = [cat, {**cat, "id": 2, "category_id": 4}] if dog else [cat]
    truth = dataclasses.replace(truth, annotations=tuple(entries))
    found = Detections(
        np.array([(20, 20, 120, 120), corners], np.float32), np.array([0.8, score], np.float32), np.array([0, label])
    )
    errors = {error.kind: error.count for error in judge(make_predictions(truth, {cat["image_id"]: found})).errors()}
    assert errors == {**dict.fromkeys(KINDS, 0), kind: 1}
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    missed = judge(make_predictions(truth, {cat["image_id"]: nothing})).errors()
    assert {error.kind: error.count for error in missed if error.count} == {"missed": len(entries)}


def test_confusions_and_reliability_add_up():
    truth = without_crowds(make_ground_truth(40, 3))
    detections = make_detections(truth, 4, 6.0)
    predictions = make_predictions(truth, detections)
    diagnosis = predictions.diagnosis(0.5)
    assert diagnosis is not None
    boxes = sum(cell.count for cell in diagnosis.confusions if cell.truth is not None)
    shown = sum(cell.count for cell in diagnosis.confusions if cell.found is not None)
    assert boxes == len(truth.annotations)
    assert shown == int((predictions.scores >= 0.5).sum())
    assert sum(each.count for each in diagnosis.reliability) == int((predictions.scores >= 0.05).sum())
    wanted = sum(
        each.count * abs(each.mean_score - each.right)
        for each in diagnosis.reliability
        if each.mean_score is not None and each.right is not None
    ) / sum(each.count for each in diagnosis.reliability)
    assert diagnosis.calibration_error == pytest.approx(wanted)
    assert np.mean(diagnosis.precision) == pytest.approx(judge(predictions).average_precision())
