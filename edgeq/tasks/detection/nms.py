"""Non-maximum suppression: one object, many boxes, one detection.

A way to do it is one function in this file and one line in `NMS`. A decoder adds `NMS_OPTIONS` to its options and gives
its candidates to `select_detections`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.overlaps import overlaps

NMS_OPTIONS: Mapping[str, Any] = {
    "nms": "hard",
    "class_aware": True,
    "iou_threshold": 0.5,
    "score_threshold": 0.001,
    "top_k": 300,
}
"""Options of every decoder that suppresses: how, whether only within a class, from which IoU (0..1) and score (0..1)
on, and how many detections are kept at most."""

_SIGMA = 0.5  # of soft suppression's Gaussian, as its paper has it
_CHUNK = 128  # boxes that are compared at once: few enough for the caches, many enough to need few steps


def select_detections(found: Detections, options: Mapping[str, Any]) -> Detections:
    """Returns what is left of candidates after non-maximum suppression, best first.

    Args:
        found: Candidates in any order; those below `score_threshold` are left out.
        options: Every name of `NMS_OPTIONS`.

    Raises:
        InputError: `nms` names no way to suppress.
    """
    if options["nms"] not in NMS:
        raise InputError(f"option 'nms' is {options['nms']!r}; known: {', '.join(NMS)}")
    found = _pick(found, np.flatnonzero(found.scores >= options["score_threshold"]))
    groups = found.classes if options["class_aware"] else np.zeros_like(found.classes)
    return NMS[options["nms"]](found, groups, options)


def suppress_overlaps(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    classes: NDArray[np.int64],
    iou_threshold: float,
    max_detections: int,
) -> NDArray[np.int64]:
    """Returns the indices of the boxes that are kept, best first.

    A box goes when it overlaps a better one that is kept, of the same class, by an IoU above the threshold. Later boxes
    never change earlier decisions, so the search ends when `max_detections` are found.

    Args:
        boxes: `(N, 4)` left, top, right, bottom.
        scores: `(N,)`.
        classes: `(N,)`.
        iou_threshold: Overlap in 0..1 above which two boxes are taken for one object.
        max_detections: How many to keep at most.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.empty(0, np.int64)
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        gone = _overlaps(boxes, classes, kept, chunk, iou_threshold).any(axis=0)
        chunk = chunk[~gone]
        rivals = _overlaps(boxes, classes, chunk, chunk, iou_threshold)
        gone = np.zeros(len(chunk), bool)
        for index in range(len(chunk)):
            if not gone[index]:
                gone[index + 1 :] |= rivals[index, index + 1 :]
        kept = np.concatenate([kept, chunk[~gone]])
        if len(kept) >= max_detections:
            break
    return kept[:max_detections]


def _hard(found: Detections, groups: NDArray[np.int64], options: Mapping[str, Any]) -> Detections:
    return _pick(
        found, suppress_overlaps(found.boxes, found.scores, groups, options["iou_threshold"], int(options["top_k"]))
    )


def _none(found: Detections, groups: NDArray[np.int64], options: Mapping[str, Any]) -> Detections:
    """For models that were trained to find each object once."""
    return _pick(found, np.argsort(-found.scores, kind="stable")[: int(options["top_k"])])


def _soft(found: Detections, groups: NDArray[np.int64], options: Mapping[str, Any]) -> Detections:
    """Lowers scores by a Gaussian of the overlap in place of dropping boxes ("Soft-NMS", Bodla et al., 2017)."""
    scores = found.scores.astype(np.float64)
    left, corners = np.arange(len(scores)), found.boxes.astype(np.float64)
    kept: list[np.intp] = []
    kept_scores: list[float] = []
    while len(left) and len(kept) < options["top_k"]:
        place = int(np.argmax(scores[left]))
        best = left[place]
        kept.append(best)
        kept_scores.append(float(scores[best]))
        left = np.delete(left, place)
        shared = overlaps(corners[best][None], corners[left])[0] * (groups[left] == groups[best])
        scores[left] *= np.exp(-(shared**2) / _SIGMA)
        left = left[scores[left] >= options["score_threshold"]]
    picked = _pick(found, np.array(kept, np.int64))
    return Detections(picked.boxes, np.array(kept_scores, np.float32), picked.classes)


def _weighted(found: Detections, groups: NDArray[np.int64], options: Mapping[str, Any]) -> Detections:
    """Takes the mean of boxes that overlap, weighted by their scores ("BlazeFace", Bazarevsky et al., 2019)."""
    left, corners = np.argsort(-found.scores, kind="stable"), found.boxes.astype(np.float64)
    kept: list[np.intp] = []
    boxes: list[NDArray[np.floating]] = []
    while len(left) and len(kept) < options["top_k"]:
        best = left[0]
        shared = overlaps(corners[best][None], corners[left])[0] * (groups[left] == groups[best])
        together = shared > options["iou_threshold"]
        together[0] = True  # a box of no area overlaps nothing, not even itself
        weights = found.scores[left[together]]
        averaged = found.boxes[left[together]]
        mean = weights @ averaged / weights.sum() if weights.sum() > 0 else found.boxes[best]
        kept.append(best)
        # Rounding must not carry a mean beyond what it is the mean of, and so beyond the image.
        boxes.append(np.clip(mean, averaged.min(axis=0), averaged.max(axis=0)))
        left = left[~together]
    picked = _pick(found, np.array(kept, np.int64))
    return Detections(np.array(boxes, found.boxes.dtype).reshape(-1, 4), picked.scores, picked.classes)


NMS: Mapping[str, Callable[[Detections, NDArray[np.int64], Mapping[str, Any]], Detections]] = {
    "hard": _hard,
    "soft": _soft,
    "weighted": _weighted,
    "none": _none,
}
"""Ways to suppress: candidates, the groups within which they suppress each other, and options -> detections."""


def _pick(found: Detections, rows: NDArray[np.integer]) -> Detections:
    return Detections(found.boxes[rows], found.scores[rows], found.classes[rows])


def _overlaps(
    boxes: NDArray[np.floating],
    classes: NDArray[np.int64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    iou_threshold: float,
) -> NDArray[np.bool_]:
    """Returns `(rows, columns)`: whether two boxes are of one class and their IoU is above the threshold."""
    left, top, right, bottom = boxes[rows].T[:, :, None]
    other_left, other_top, other_right, other_bottom = boxes[columns].T[:, None, :]
    shared = np.minimum(right, other_right)
    shared -= np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom)
    height -= np.maximum(top, other_top)
    np.maximum(shared, 0, out=shared)
    shared *= np.maximum(height, 0, out=height)
    union = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    union -= shared
    union *= iou_threshold
    return np.asarray((shared > union) & (classes[rows][:, None] == classes[columns]))
