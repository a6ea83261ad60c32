"""`OrientedBoxes`, and how YOLO-OBB gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.end2end import END_TO_END, chosen_rows
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.polygons import convex_overlaps, signed_area, upright_overlaps

_OPTIONS = {"score_threshold": 0.001, "iou_threshold": 0.7, "candidates": 300, "top_k": 100}
_BLOCK = 16  # boxes that are compared with all worse ones at once; what is gone by then is not
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class OrientedBoxes:
    """The objects found in one image.

    Attributes:
        corners: `(N, 4, 2)` float32, the corners of each rectangle in order, in the image's pixels.
        scores: `(N,)` float32 in 0..1.
        classes: `(N,)` int64, indices into the model's labels.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


def yolo_obb(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> OrientedBoxes:
    """Returns the best `top_k` objects after class-wise non-maximum suppression by rotated IoU, best first.

    Args:
        outputs: Role `predictions`: `(1, 5 + C, N)`: centre, width and height in the input's pixels, C class
            probabilities, and the angle in radians from x to y, as YOLOv8 exports them. Of an end-to-end model
            `(1, N, 7)`: centre, width, height, score, class and angle.
        post: Options `score_threshold`, `iou_threshold`, `candidates` that are compared at most, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    predictions = pick_outputs(outputs, post, {"predictions": "output0"})["predictions"]
    if predictions.ndim != 3 or len(predictions) != 1 or predictions.shape[1] < 6:
        raise ModelError(f"decoder {post.decoder}: wanted predictions (1, 5 + classes, N), found {describe(outputs)}")
    if not np.isfinite(predictions).all():
        raise ModelError("computed boxes or scores that are not finite numbers; it is broken")
    if predictions.shape[2] == END_TO_END + 1:
        boxes, found_scores, found_classes, angles = chosen_rows(predictions[0], options)
        found = placement.points_to_image(corners_of(boxes, angles[:, 0]))
        return OrientedBoxes(found, np.clip(found_scores, 0, 1), found_classes)
    rows = predictions[0].T
    classes, scores = rows[:, 4:-1].argmax(axis=1), rows[:, 4:-1].max(axis=1)
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= options["score_threshold"]][: int(options["candidates"])]
    corners = corners_of(rows[order, :4], rows[order, -1])
    kept = _suppress(corners, classes[order], options["iou_threshold"])[: int(options["top_k"])]
    chosen = order[kept]
    return OrientedBoxes(placement.points_to_image(corners[kept]), np.clip(scores[chosen], 0, 1), classes[chosen])


def corners_of(boxes: NDArray[np.floating], angles: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the corners `(N, 4, 2)` of boxes `(N, 4)`, centre and size, turned by angles `(N,)` from x to y."""
    centres, halves = boxes[:, None, :2].astype(np.float64), boxes[:, None, 2:].astype(np.float64) / 2
    cosine, sine = np.cos(angles.astype(np.float64)), np.sin(angles.astype(np.float64))
    along, down = np.stack([cosine, sine], axis=1)[:, None], np.stack([-sine, cosine], axis=1)[:, None]
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])[None]
    ways = signs * halves
    corners: NDArray[np.float64] = centres + ways[:, :, :1] * along + ways[:, :, 1:] * down
    return corners


def _suppress(corners: NDArray[np.float64], classes: NDArray[np.int64], threshold: float) -> NDArray[np.intp]:
    """Returns the boxes that no better one of their class overlaps by more than the threshold.

    What two boxes share is computed only if their sizes and bounds allow so much, and neither is gone yet.
    """
    sizes = np.abs(signed_area(corners))
    most = np.minimum(upright_overlaps(corners), np.minimum(sizes[:, None], sizes))
    near = most >= threshold * (sizes[:, None] + sizes - most) * (1 - _ROUNDING)
    possible = np.triu(near & (classes[:, None] == classes), 1)
    gone = np.zeros(len(corners), bool)
    for start in range(0, len(corners), _BLOCK):
        better, worse = np.nonzero(possible[start : start + _BLOCK] & ~gone)
        better += start
        left = ~gone[better]
        better, worse = better[left], worse[left]
        shared = convex_overlaps(corners[better], corners[worse])
        above = shared > threshold * (sizes[better] + sizes[worse] - shared)
        for one, other in zip(better[above].tolist(), worse[above].tolist(), strict=True):
            gone[other] |= not gone[one]
    return np.flatnonzero(~gone)
