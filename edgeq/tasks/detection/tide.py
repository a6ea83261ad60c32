"""Why detections are wrong: the six kinds of error of TIDE, and what each of them costs.

After "TIDE: A General Toolbox for Identifying Object Detection Errors" (Bolya et al., 2020). A detection is right if it
has an IoU of at least .5 with a box of its class that no better one has found. Every other detection is an error of the
first kind that fits, by its IoU with the nearest boxes:

- localisation: .1 to .5 with a box of its class;
- classification: at least .5 with a box of another class;
- duplicate: at least .5 with a box of its class that is found already;
- background: below .1 with every box;
- both: all else, .1 to .5 with a box of another class.

Missed are the boxes that nothing finds and that no error of the first two kinds is about. The cost of a kind is how
much AP at IoU .5 would rise if only its errors were put right: the best detection of each wrongly placed or named box
is corrected, all others of the kind are taken away, and missed boxes are no longer counted.

As in COCO, detections within a crowd of their class are neither right nor wrong, and classes without boxes do not
count.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.overlaps import overlaps
from edgeq.tasks.evidence import ErrorKind

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
"""The kinds of error, in the paper's order."""

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1

# The best detections of an image that count, whatever their class.
_MAX_DETECTIONS = 100
_RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
_HIT, _IGNORED, _MISSED = "hit", "ignored", "missed"
_NOTHING = -1


@dataclass(frozen=True, eq=False)
class _Found:
    """What every detection is, and every box that should be found.

    Attributes:
        classes: `(D,)` int64, class of each detection.
        scores: `(D,)` float64.
        kinds: `(D,)` text: one of `KINDS`, `hit` or `ignored`.
        boxes: `(D,)` int64, position of the box that a hit finds or that an error of localisation or classification
            is about; -1 for all others.
        box_classes: `(G,)` int64, class of each box; crowds are left out.
        found: `(G,)` bool, whether a detection finds it.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    kinds: NDArray[np.str_]
    boxes: NDArray[np.int64]
    box_classes: NDArray[np.int64]
    found: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Verdicts(_Found):
    """Of all images: image after image, the best detections of each first.

    Attributes:
        number: How many classes there are.
    """

    number: int

    @functools.cached_property
    def positives(self) -> NDArray[np.int64]:
        """How many boxes each class has `(classes,)`."""
        return np.bincount(self.box_classes, minlength=self.number)

    @functools.cached_property
    def missed(self) -> NDArray[np.bool_]:
        """Whether nothing finds a box and no correctable error is about it `(G,)`."""
        missed = ~self.found
        missed[self.boxes[self.boxes != _NOTHING]] = False
        return missed

    @functools.cached_property
    def corrected(self) -> NDArray[np.bool_]:
        """Whether a detection `(D,)` is the best of those that are wrongly placed or named at a box not found."""
        wrong = np.flatnonzero((self.boxes != _NOTHING) & (self.kinds != _HIT))
        wrong = wrong[~self.found[self.boxes[wrong]]]
        wrong = wrong[np.argsort(-self.scores[wrong], kind="stable")]
        _, first = np.unique(self.boxes[wrong], return_index=True)
        corrected = np.zeros(len(self.scores), np.bool_)
        corrected[wrong[first]] = True
        return corrected

    def errors(self) -> tuple[ErrorKind, ...]:
        """Returns how many errors of each kind there are, and what they cost."""
        whole = self.average_precision()
        counts = {kind: int((self.kinds == kind).sum()) for kind in KINDS} | {_MISSED: int(self.missed.sum())}
        return tuple(ErrorKind(kind, counts[kind], max(0.0, self.average_precision(kind) - whole)) for kind in KINDS)

    def average_precision(self, without: str = "") -> float:
        """Returns AP at IoU .5, 0..1, as it is or without the errors of one kind; 0 without boxes."""
        curves = self.precision(without)
        return float(np.mean([curve.mean() for curve in curves.values()])) if curves else 0.0

    def precision(self, without: str = "") -> Mapping[int, NDArray[np.float64]]:
        """Returns class -> interpolated precision at recall 0, .01, ..., 1, of the classes with boxes."""
        positives = self.positives.copy()
        if without == _MISSED:
            positives -= np.bincount(self.box_classes[self.missed], minlength=self.number)
        wrong = self.kinds == without
        right = (self.kinds == _HIT) | (wrong & self.corrected)
        kept = right | ~(wrong | (self.kinds == _IGNORED))
        classes = self.classes.copy()
        moved = wrong & self.corrected
        classes[moved] = self.box_classes[self.boxes[moved]]
        curves = {}
        for label in np.flatnonzero(self.positives).tolist():
            of_class = np.flatnonzero(kept & (classes == label))
            if positives[label] or len(of_class):  # of a class whose boxes are all missed, nothing may be left
                order = of_class[np.argsort(-self.scores[of_class], kind="stable")]
                curves[label] = _interpolated(right[order], int(positives[label]))
        return curves


def judge(predictions: DetectionPredictions) -> Verdicts:
    """Returns what every detection and every box of a result is."""
    found: list[_Found] = list(_judge_images(predictions))
    starts = np.cumsum([0, *(len(each.box_classes) for each in found)])
    boxes = [
        np.where(each.boxes == _NOTHING, _NOTHING, each.boxes + start)
        for each, start in zip(found, starts[:-1], strict=True)
    ]
    return Verdicts(
        np.concatenate([each.classes for each in found]),
        np.concatenate([each.scores for each in found]),
        np.concatenate([each.kinds for each in found]),
        np.concatenate(boxes),
        np.concatenate([each.box_classes for each in found]),
        np.concatenate([each.found for each in found]),
        len(predictions.classes),
    )


def _judge_images(predictions: DetectionPredictions) -> Iterator[_Found]:
    truth = predictions.truth_boxes.copy()
    truth[:, 2:] += truth[:, :2]
    ends, truth_ends = np.cumsum(predictions.counts), np.cumsum(predictions.truth_counts)
    counts = zip(ends, predictions.counts, truth_ends, predictions.truth_counts, strict=True)
    for end, count, truth_end, truth_count in counts:
        part, true = slice(end - count, end), slice(truth_end - truth_count, truth_end)
        scores = predictions.scores[part].astype(np.float64)
        best = np.argsort(-scores, kind="stable")[:_MAX_DETECTIONS]
        crowd = predictions.truth_crowd[true].astype(bool)
        labels = predictions.truth_labels[true].astype(np.int64)
        yield _judge_image(
            predictions.boxes[part][best].astype(np.float64),
            scores[best],
            predictions.labels[part][best].astype(np.int64),
            (truth[true][~crowd], labels[~crowd]),
            (truth[true][crowd], labels[crowd]),
        )


def _judge_image(
    corners: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    truth: tuple[NDArray[np.float64], NDArray[np.int64]],
    crowds: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> _Found:
    box_corners, box_classes = truth
    overlap = overlaps(corners, box_corners)
    alike = classes[:, None] == box_classes
    own, other = overlap * alike, overlap * ~alike
    boxes = _match(own)
    found = np.zeros(len(box_classes), np.bool_)
    found[boxes[boxes != _NOTHING]] = True
    kinds = np.full(len(scores), "background", dtype="<U14")
    if len(box_classes) and len(scores):
        nearest, own_iou, other_iou = own.argmax(axis=1), own.max(axis=1), other.max(axis=1)
        own_found = (own * found).max(axis=1)
        # In this order; what comes first wins.
        conditions = [
            (own_iou >= BACKGROUND_IOU) & (own_iou <= FOREGROUND_IOU),
            other_iou >= FOREGROUND_IOU,
            own_found >= FOREGROUND_IOU,
            overlap.max(axis=1) <= BACKGROUND_IOU,
        ]
        named = ["localisation", "classification", "duplicate", "background"]
        kinds = np.select(conditions, named, "both").astype("<U14")
        about = np.select(conditions[:2], [nearest, other.argmax(axis=1)], _NOTHING)
    else:
        about = np.full(len(scores), _NOTHING)
    kinds[_within(corners, classes, crowds)] = _IGNORED
    kinds[boxes != _NOTHING] = _HIT
    boxes = np.where(kinds == _HIT, boxes, np.where(kinds == _IGNORED, _NOTHING, about))
    return _Found(classes, scores, kinds, boxes.astype(np.int64), box_classes, found)


def _match(overlap: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the box that each detection finds `(D,)`, the best detections first; -1 for none."""
    boxes = np.full(len(overlap), _NOTHING, np.int64)
    if not overlap.size:
        return boxes
    left = overlap.copy()
    for number in np.flatnonzero(overlap.max(axis=1) >= FOREGROUND_IOU).tolist():
        box = int(left[number].argmax())
        if left[number, box] >= FOREGROUND_IOU:
            boxes[number] = box
            left[:, box] = 0
    return boxes


def _within(
    corners: NDArray[np.float64],
    classes: NDArray[np.int64],
    crowds: tuple[NDArray[np.float64], NDArray[np.int64]],
) -> NDArray[np.bool_]:
    """Returns whether more than half of each detection `(D,)` lies in a crowd of its class."""
    crowd, crowd_classes = crowds
    low, high = np.maximum(corners[:, None, :2], crowd[:, :2]), np.minimum(corners[:, None, 2:], crowd[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=2)
    areas = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)[:, None]
    within: NDArray[np.bool_] = ((inside > FOREGROUND_IOU * areas) & (classes[:, None] == crowd_classes)).any(axis=1)
    return within


def _interpolated(right: NDArray[np.bool_], positives: int) -> NDArray[np.float64]:
    """Returns the largest precision at each recall or above `(101,)`; `right` is by falling score."""
    precision = np.zeros(len(_RECALL_LEVELS))
    if positives and len(right):
        true = np.cumsum(right)
        envelope = np.maximum.accumulate((true / np.arange(1, len(right) + 1))[::-1])[::-1]
        first = np.searchsorted(true / positives, _RECALL_LEVELS, side="left")
        precision[first < len(right)] = envelope[first[first < len(right)]]
    return precision
