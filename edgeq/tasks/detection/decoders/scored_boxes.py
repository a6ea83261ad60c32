"""Boxes that the graph has decoded already, each with a score per class: torchvision's detectors, UltraFace."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import suppress_overlaps

_ROLES = {"boxes": "boxes", "scores": "scores"}
_OPTIONS = {
    "score_threshold": 0.05,
    "iou_threshold": 0.5,
    "top_k": 100,
    "candidates": 1000,
    "background": -1,
    "relative": False,
}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after class-wise non-maximum suppression, best first.

    A box is found once for each class whose score is above the threshold. It is cut at the image's edges first, as
    torchvision does.

    Args:
        outputs: Roles `boxes` (`(1, N, 4)`: left, top, right, bottom) and `scores` (`(1, N, columns)`, in 0..1).
        post: Options `score_threshold`, `iou_threshold`, `top_k`; `candidates`, how many scores per class are looked
            at; `background`, the column of `scores` that is no class, or -1, class indices count the others; and
            `relative`, true where boxes are in parts of the input's sides, false where they are in its pixels.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    boxes, scores = arrays["boxes"], arrays["scores"]
    if not (boxes.ndim == scores.ndim == 3 and boxes.shape == (1, scores.shape[1], 4)):
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (1, N, 4) and scores (1, N, columns), found {describe(arrays)}"
        )
    background, columns = options["background"], scores.shape[2]
    if background not in range(-1, columns):
        raise InputError(
            f"decoder {post.decoder}: option 'background' is {background}; wanted a column of scores in "
            f"0..{columns - 1}, or -1 for none"
        )
    wanted = np.delete(scores[0], int(background), axis=1) if background >= 0 else scores[0]
    rows, classes = _candidates(wanted, options["score_threshold"], int(options["candidates"]))
    unit = np.array([placement.input_width_px, placement.input_height_px] * 2) if options["relative"] else 1
    found, found_scores = placement.to_image(boxes[0, rows] * unit), wanted[rows, classes]
    kept = suppress_overlaps(found, found_scores, classes, options["iou_threshold"], int(options["top_k"]))
    return Detections(found[kept], np.clip(found_scores[kept], 0, 1), classes[kept])


def _candidates(scores: np.ndarray, threshold: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and column of all scores above the threshold, of each column the `count` best at most."""
    rows, columns = np.nonzero(scores > threshold)
    if np.bincount(columns, minlength=1).max() > count:
        order = np.lexsort((-scores[rows, columns], columns))
        rows, columns = rows[order], columns[order]
        _, first = np.unique(columns, return_index=True)
        rank = np.arange(len(columns)) - np.repeat(first, np.diff([*first, len(columns)]))
        rows, columns = rows[rank < count], columns[rank < count]
    return rows, columns
