"""YOLOX: one anchor-free prediction a cell of three grids ("YOLOX: Exceeding YOLO Series in 2021", Ge et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import suppress_overlaps

_ROLES = {"predictions": "output"}
_OPTIONS = {"score_threshold": 0.001, "iou_threshold": 0.65, "top_k": 100}
_STRIDES = (8, 16, 32)


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after class-wise non-maximum suppression, best first.

    Each cell predicts one box of one class: its centre is `(cell + xy) * stride`, its size `exp(wh) * stride`, its
    score objectness times the best class probability.

    Args:
        outputs: Role `predictions`: `(1, cells, 5 + classes)` with x, y, w, h raw, objectness and class probabilities
            after the sigmoid; cells of the strides 8, 16 and 32 one after the other, row by row.
        post: Options `score_threshold`, `iou_threshold`, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing or has another shape.
    """
    options = pick_options(post, _OPTIONS)
    predictions = pick_outputs(outputs, post, _ROLES)["predictions"]
    cells, strides = _grid(placement.input_height_px, placement.input_width_px)
    if not (predictions.ndim == 3 and predictions.shape[:2] == (1, len(strides)) and predictions.shape[2] > 5):
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, {len(strides)}, 5 + classes) for an input of "
            f"{placement.input_width_px}x{placement.input_height_px}, found {describe(outputs)}"
        )
    # No class probability exceeds 1, so objectness alone drops most cells before the classes are looked at.
    candidates = np.flatnonzero(predictions[0, :, 4] >= options["score_threshold"])
    found = predictions[0, candidates]
    classes = found[:, 5:].argmax(axis=1)
    scores = found[:, 4] * found[np.arange(len(found)), 5 + classes]
    centres = (found[:, :2] + cells[candidates]) * strides[candidates]
    with np.errstate(over="ignore"):  # boxes beyond all bounds are cut at the image's edges
        half_sizes = np.exp(found[:, 2:4]) * strides[candidates] / 2
    boxes = np.concatenate([centres - half_sizes, centres + half_sizes], axis=1)
    above = np.flatnonzero(scores >= options["score_threshold"])
    kept = above[
        suppress_overlaps(boxes[above], scores[above], classes[above], options["iou_threshold"], int(options["top_k"]))
    ]
    return Detections(placement.to_image(boxes[kept]), np.clip(scores[kept], 0, 1), classes[kept])


@lru_cache(maxsize=8)
def _grid(height_px: int, width_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns column and row `(cells, 2)` and stride `(cells, 1)` of every cell."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: height_px // stride, : width_px // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)
