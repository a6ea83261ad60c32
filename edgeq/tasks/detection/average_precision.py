"""COCO's AP over any choice of the images, from matches that are made once.

pycocotools matches detections with boxes image by image; only what follows, the curve over all images, depends on which
images count. It is computed here for many choices at a time, equal to pycocotools to rounding: an image that is drawn
twice counts like two copies of it (of equal scores within an image, both copies of the first come before the second).
What makes it fast: the interpolated precision (the largest at a recall not below) changes only at true positives, so
that everything between two of them is one sum.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.coco_matching import match_quickly

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions

AREAS = ("all", "small", "medium", "large")
"""COCO's areas of boxes: any, below 32x32 pixels, from 32x32 to 96x96, above."""

# pycocotools' thresholds to the last bit, .50:.05:.95 and 0:.01:1, and its limit of detections of an image and class.
_RECALL_LEVELS = np.linspace(0.0, 1.00, 101)
_MAX_DETECTIONS = 100
_NO_BOX = np.spacing(1)
# Weights of detections held at once: 64 MiB of int32, however many images there are.
_MAX_VALUES = 1 << 24


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """The detections of one class in all images, best first, matched with its boxes of one area.

    Attributes:
        scores: `(n,)` float64.
        images: `(n,)` int64, position of each detection's image.
        hits: `(10, n)` bool, by IoU threshold: the detection is a true positive.
        ignored: `(10, n)` bool: it counts neither as a true nor as a false positive.
        boxes: `(N,)` int64, how many boxes each image has that should be found.
    """

    scores: NDArray[np.float64]
    images: NDArray[np.int64]
    hits: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    boxes: NDArray[np.int64]


Matches = Mapping[str, tuple[ClassMatches, ...]]
"""Area of `AREAS` -> matches of every class, in the order of `DetectionPredictions.classes`."""


def match(predictions: DetectionPredictions) -> Matches:
    """Returns the matches of all areas, as pycocotools makes them with 100 detections of an image and class."""
    evaluator = _evaluated(predictions)
    classes, images = len(predictions.classes), len(predictions.images)
    per_area: dict[str, tuple[ClassMatches, ...]] = {}
    for area_number, area in enumerate(AREAS):
        starts = [(number * len(AREAS) + area_number) * images for number in range(classes)]
        per_area[area] = tuple(_class_matches(evaluator.evalImgs[start : start + images]) for start in starts)
    return per_area


def class_ap(matches: ClassMatches, weights: NDArray[np.signedinteger[Any]]) -> NDArray[np.float64]:
    """Returns the AP of a class `(10, B)` by IoU threshold, for `B` choices of the images.

    Args:
        matches: Its detections.
        weights: `(N, B)`, how often each choice holds each image.

    Returns:
        NaN where a choice holds no box of the class.
    """
    columns = max(1, _MAX_VALUES // max(1, len(matches.images)))
    parts = [weights[:, start : start + columns] for start in range(0, weights.shape[1], columns)]
    return np.concatenate([_class_ap(matches, part) for part in parts], axis=1)


def _class_ap(matches: ClassMatches, weights: NDArray[np.signedinteger[Any]]) -> NDArray[np.float64]:
    boxes = matches.boxes @ weights
    return np.stack([_interpolated(matches, threshold, weights, boxes) for threshold in range(len(matches.hits))])


def _interpolated(
    matches: ClassMatches, threshold: int, weights: NDArray[np.signedinteger[Any]], boxes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the mean interpolated precision over the recall levels `(B,)` at one IoU threshold."""
    counted = np.flatnonzero(~matches.ignored[threshold])
    hits = np.flatnonzero(matches.hits[threshold][counted])
    if not len(hits):
        return np.where(boxes > 0, 0.0, np.nan)
    images = matches.images[counted[: hits[-1] + 1]]
    # What counts up to and with each true positive: those between two of them are added up at once.
    segments = np.add.reduceat(weights[images], [0, *(hits[:-1] + 1)], axis=0)
    found = np.cumsum(segments, axis=0)
    true = np.cumsum(weights[images[hits]], axis=0)
    precision = true / (found + _NO_BOX)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / boxes
    # How many recall levels each true positive is the first to reach.
    reached = np.searchsorted(_RECALL_LEVELS, recall.ravel(), side="right").reshape(recall.shape)
    levels = np.diff(reached, axis=0, prepend=0)
    mean: NDArray[np.float64] = (levels * envelope).sum(axis=0) / len(_RECALL_LEVELS)
    return np.where(boxes > 0, mean, np.nan)


def _class_matches(evaluated: list[dict[str, Any] | None]) -> ClassMatches:
    present = [(number, entry) for number, entry in enumerate(evaluated) if entry is not None]
    boxes = np.zeros(len(evaluated), np.int64)
    for number, entry in present:
        boxes[number] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    if not present:
        nothing = np.zeros((10, 0), np.bool_)
        return ClassMatches(np.zeros(0), np.zeros(0, np.int64), nothing, nothing, boxes)
    scores = np.concatenate([np.asarray(entry["dtScores"], np.float64) for _, entry in present])
    images = np.concatenate([np.full(len(entry["dtScores"]), number) for number, entry in present]).astype(np.int64)
    ignored = np.concatenate([np.asarray(entry["dtIgnore"], bool) for _, entry in present], axis=1)
    matched = np.concatenate([np.asarray(entry["dtMatches"]) > 0 for _, entry in present], axis=1)
    # Stable, as pycocotools sorts: equal scores stay in the order of the images.
    order = np.argsort(-scores, kind="mergesort")
    return ClassMatches(scores[order], images[order], (matched & ~ignored)[:, order], ignored[:, order], boxes)


def _evaluated(predictions: DetectionPredictions) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ids = np.arange(1, len(predictions.images) + 1)
    boxes = predictions.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    truth = _annotations(
        np.repeat(ids, predictions.truth_counts), predictions.truth_labels, predictions.truth_boxes,
        area=predictions.truth_areas, iscrowd=predictions.truth_crowd,
    )  # fmt: skip
    found = _annotations(
        np.repeat(ids, predictions.counts), predictions.labels, boxes,
        area=boxes[:, 2] * boxes[:, 3], iscrowd=np.zeros(len(boxes), np.int64), score=predictions.scores,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_coco(COCO, predictions, truth), _coco(COCO, predictions, found), "bbox")
        evaluator.params.maxDets = [_MAX_DETECTIONS]
        match_quickly(evaluator)
        evaluator.evaluate()
    return evaluator


def _annotations(
    images: NDArray[Any], labels: NDArray[Any], boxes: NDArray[np.float64], **columns: NDArray[Any]
) -> list[dict[str, Any]]:
    rows = zip(images.tolist(), labels.tolist(), boxes.tolist(), *(each.tolist() for each in columns.values()))  # noqa: B905 - of one length
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, **dict(zip(columns, rest, strict=True))}
        for number, (image, label, box, *rest) in enumerate(rows, start=1)
    ]


def _coco(coco_class: Any, predictions: DetectionPredictions, annotations: list[dict[str, Any]]) -> Any:
    coco = coco_class()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, len(predictions.images) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(predictions.classes)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
