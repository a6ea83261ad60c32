"""What heads with thousands of cells share: the cells themselves, and the few scores that are worth decoding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import select_detections

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]


@lru_cache(maxsize=16)
def grid(height_px: int, width_px: int, strides: tuple[float, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns column and row `(cells, 2)` and stride `(cells, 1)` of every cell: stride by stride, row by row.

    A side that is no multiple of a stride has one more cell for what is left.
    """
    cells, sizes = [], []
    for stride in strides:
        rows, columns = np.mgrid[: math.ceil(height_px / stride), : math.ceil(width_px / stride)]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        sizes.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(sizes).astype(np.float32)


def cell_counts(placement: Placement, strides: Sequence[float]) -> list[int]:
    """Returns how many cells a model's input has at each stride."""
    height, width = placement.input_height_px, placement.input_width_px
    return [math.ceil(height / stride) * math.ceil(width / stride) for stride in strides]


def sigmoid(values: FloatArray) -> FloatArray:
    """Returns `1 / (1 + exp(-values))`; a logit below -88 is 0."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-values))


def logit(probability: float) -> float:
    """Returns what the sigmoid makes a probability of; minus infinity for 0, infinity for 1."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))


def pick_scores(scores: FloatArray, threshold: float, *, multi_label: bool, limit: int) -> tuple[IntArray, IntArray]:
    """Returns row and column of the scores that reach the threshold, of the `limit` best at most.

    Args:
        scores: `(N, classes)`; a transposed view will do.
        threshold: In the unit of the scores.
        multi_label: Whether a row counts once for each class that reaches the threshold, or for its best one only.
        limit: How many to keep at most.
    """
    rows = np.flatnonzero(scores.max(axis=1) >= threshold) if scores.shape[1] else np.empty(0, np.int64)
    found = scores[rows]
    if multi_label:
        places, classes = np.nonzero(found >= threshold)
    else:
        places, classes = np.arange(len(rows)), found.argmax(axis=1)
    if len(places) > limit:
        best = np.argpartition(-found[places, classes], limit - 1)[:limit] if limit > 0 else np.empty(0, np.int64)
        best.sort()
        places, classes = places[best], classes[best]
    return rows[places], classes


def corners(centres: FloatArray, sizes: FloatArray) -> FloatArray:
    """Returns `(N, 4)` left, top, right, bottom of boxes with these centres `(N, 2)` and sizes `(N, 2)`."""
    half = sizes / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def suppressed(
    boxes: FloatArray,
    scores: FloatArray,
    classes: IntArray,
    options: Mapping[str, Any],
    placement: Placement,
    *,
    cut_first: bool = False,
) -> Detections:
    """Returns what is left of candidates after non-maximum suppression, in the image's pixels, best first.

    Args:
        boxes: `(N, 4)` in the input's pixels.
        scores: `(N,)`; what exceeds 1 counts as 1.
        classes: `(N,)`.
        options: Every name of `edgeq.tasks.detection.nms.NMS_OPTIONS`.
        placement: Where the image lies in the input.
        cut_first: Whether boxes are cut at the image's edges before they are compared, which changes their overlaps.
    """
    places = placement.to_image(boxes) if cut_first else boxes
    found = Detections(places.astype(np.float32), scores.astype(np.float32), classes.astype(np.int64))
    kept = select_detections(found, options)
    places = kept.boxes if cut_first else placement.to_image(kept.boxes)
    return Detections(places, np.clip(kept.scores, 0, 1), kept.classes)


def input_unit(placement: Placement, *, relative: bool) -> NDArray[np.float64]:
    """Returns `(4,)` what a box is multiplied by to be in the input's pixels; `relative` boxes are in 0..1."""
    if not relative:
        return np.ones(4)
    return np.array([placement.input_width_px, placement.input_height_px] * 2, np.float64)
