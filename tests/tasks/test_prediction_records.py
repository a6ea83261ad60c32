"""Predictions survive packing bit for bit, and what was tampered with is refused."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.tasks.classification.records import ClassificationPredictions
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.records import DetectionPredictions
from edgeq.tasks.embedding import EmbeddingPredictions
from edgeq.tasks.labelled_images import relative_names
from edgeq.tasks.prediction_records import PredictionRecords, pack_predictions, unpack_predictions
from tests.reporting.made import make_detections, make_ground_truth, make_predictions


@pytest.fixture
def detected() -> DetectionPredictions:
    truth = make_ground_truth(12)
    return make_predictions(truth, make_detections(truth, 1, 3))


def classified() -> ClassificationPredictions:
    ranked = np.array([[1, 0], [0, 1], [1, 0]], np.int32)
    return ClassificationPredictions(
        ("a", "b"), ("x/1.png", "x/2.png", "y/1.png"), ranked, np.array([1, 1, 0], np.int32)
    )


def embedded() -> EmbeddingPredictions:
    return EmbeddingPredictions(("1.png", "2.png"), np.array([0.99, -1.0], np.float32))


def same(first: PredictionRecords, second: PredictionRecords) -> bool:
    pairs = [(vars(first)[name], vars(second)[name]) for name in vars(first)]
    return type(first) is type(second) and all(
        one.dtype == other.dtype and np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        for one, other in pairs
    )


def test_what_was_packed_comes_back(detected):
    for predictions in (detected, classified(), embedded()):
        document = json.loads(json.dumps(pack_predictions(predictions), allow_nan=False))
        assert same(unpack_predictions(document, type(predictions)), predictions)
        assert list(document)[-1] == "arrays"


def test_images_are_in_the_order_of_their_ids_and_only_those_that_were_scored():
    truth = make_ground_truth(9)
    detections = make_detections(truth, 1, 3)
    skipped = sorted(detections)[4]
    del detections[skipped]
    predictions = make_predictions(truth, detections)
    names = {record.id: record.file_name for record in truth.images}
    assert predictions.images == tuple(names[image] for image in sorted(detections))
    assert len(predictions.truth_boxes) == sum(entry["image_id"] != skipped for entry in truth.annotations)


def test_images_without_any_box_are_kept():
    truth = make_ground_truth(4)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    predictions = make_predictions(truth, {record.id: nothing for record in truth.images})
    assert same(unpack_predictions(pack_predictions(predictions), DetectionPredictions), predictions)
    assert len(predictions.images) == 4


def test_names_are_those_in_the_folder(tmp_path):
    paths = [tmp_path / "cat" / "1.png", Path("elsewhere/2.png")]
    assert relative_names(paths, tmp_path) == ("cat/1.png", "2.png")


def _array(document, name, **changes):
    document["arrays"][name].update(changes)


def _blow_up(document):
    """Half a gigabyte of zeros in half a megabyte."""
    _array(document, "scores", data=base64.b64encode(zlib.compress(bytes(1 << 29))).decode())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda document: document.pop("arrays"), "has no .arrays"),
        (
            lambda document: document.update(task="segmentation"),
            "they are for 'segmentation', its scores for 'detection'",
        ),
        (lambda document: document.update(version=2), "version 2, this edgeq reads 1"),
        (lambda document: document.update(format="pickle"), "not of the format"),
        (lambda document: document.update(images=[1, 2]), "images.* is 1, wanted text"),
        (lambda document: document["images"].append("one more"), "sizes_px is int32"),
        (lambda document: _array(document, "scores", dtype="float64"), "scores is float64"),
        (lambda document: _array(document, "scores", dtype="object"), "scores.*dtype is 'object', wanted one of"),
        (
            lambda document: _array(document, "scores", shape=[-1]),
            "scores.*shape.* is -1, wanted a whole number",
        ),
        (lambda document: _array(document, "scores", shape=[10**12]), "scores is float32"),
        (lambda document: _array(document, "boxes", shape=[10**12, 4]), "boxes: an array of 16000000000000 bytes"),
        (lambda document: _array(document, "scores", data="!"), "Only base64 data|Incorrect padding|Non-base64"),
        (lambda document: _array(document, "scores", data="AAAA"), "while decompressing"),
        (_blow_up, "scores: an array that does not have the size"),
        (lambda document: document.update(classes=["cat"]), "a class that is not named"),
    ],
)
def test_damage_is_told(detected, damage, reason):
    document = copy.deepcopy(pack_predictions(detected))
    damage(document)
    with pytest.raises(InputError, match=f"its predictions cannot be used: .*({reason}).*; run `edgeq eval` again"):
        unpack_predictions(document, DetectionPredictions)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_are_finite(detected, value):
    detected.boxes[0, 0] = value
    with pytest.raises(InputError, match="not finite"):
        unpack_predictions(pack_predictions(detected), DetectionPredictions)


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_other_things_are_no_predictions(document):
    with pytest.raises(InputError, match="cannot be used"):
        unpack_predictions(document, DetectionPredictions)
