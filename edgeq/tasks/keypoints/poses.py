"""`Poses`: the objects found in one image, with their keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Poses:
    """The objects found in one image.

    Attributes:
        scores: `(N,)` float32 in 0..1.
        classes: `(N,)` int64, indices into the model's labels.
        points: `(N, K, 3)` float32: x and y in the image's pixels, which may lie outside of it, and a score in 0..1.
    """

    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    points: NDArray[np.float32]


# Nose, eyes, ears, shoulders, elbows, wrists, hips, knees and ankles, as COCO's evaluator has them.
_COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def sigmas(count: int) -> NDArray[np.float64]:
    """Returns how much people disagree about each keypoint `(count,)`: COCO's for its 17, otherwise 1 / count."""
    return _COCO_SIGMAS if count == len(_COCO_SIGMAS) else np.full(count, 1 / count)


def similarity(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the object keypoint similarity `(N, M)` of poses, 0..1.

    An object is as large as the box around its keypoints in the second set.

    Args:
        first: `(N, K, 3)`: x, y and a score.
        second: `(M, K, 3)`; keypoints of score 0 do not count.
    """
    if not len(first) or not len(second) or first.shape[1] != second.shape[1]:
        return np.zeros((len(first), len(second)))
    seen = second[:, :, 2] > 0
    places = np.where(seen[..., None], second[:, :, :2], np.nan)
    empty = ~seen.any(axis=1)
    places[empty] = 0.0
    area = np.maximum((np.nanmax(places, axis=1) - np.nanmin(places, axis=1)).prod(axis=1), 1.0)
    squares = ((first[:, None, :, :2] - second[None, :, :, :2]) ** 2).sum(axis=3)
    variances = (2 * sigmas(first.shape[1])) ** 2
    close = np.exp(-squares / (2 * area[None, :, None] * variances)) * seen
    mean: NDArray[np.float64] = close.sum(axis=2) / np.maximum(seen.sum(axis=1), 1)
    return mean
