"""Greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def suppress_overlaps(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
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
        iou_threshold: Overlap in 0..1 from which on two boxes are taken for one object.
        max_detections: How many to keep at most.
    """
    remaining = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while remaining.size and len(kept) < max_detections:
        best, remaining = remaining[0], remaining[1:]
        kept.append(int(best))
        rivals = np.flatnonzero(classes[remaining] == classes[best])
        if not rivals.size:
            continue
        others = remaining[rivals]
        overlap = np.minimum(boxes[others, 2:], boxes[best, 2:]) - np.maximum(boxes[others, :2], boxes[best, :2])
        intersection = np.maximum(overlap, 0).prod(axis=1)
        union = areas[others] + areas[best] - intersection
        remaining = np.delete(remaining, rivals[intersection > iou_threshold * union])
    return np.array(kept, np.int64)
