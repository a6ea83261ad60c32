"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256  # boxes that are compared at once: few enough for the caches, many enough to need few steps


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
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    above = intersection > iou_threshold * (areas - intersection)
    return np.asarray(above & (classes[rows][:, None] == classes[columns]))
