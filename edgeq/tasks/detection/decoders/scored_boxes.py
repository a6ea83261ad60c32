"""Boxes that the graph has decoded already, each with a score per class: torchvision's detectors, UltraFace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.anchors import require_anchors
from edgeq.tasks.detection.decoders.candidates import cell_counts, input_unit, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.decoders.scores import best_per_group, class_columns
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_ROLES = {"boxes": "boxes", "scores": "scores"}
_OPTIONS = {
    **NMS_OPTIONS,
    "score_threshold": 0.05,
    "top_k": 100,
    "candidates": 1000,
    "strides": (),
    "boxes_per_cell": 1,
    "background": -1,
    "relative": False,
    "cut_first": True,
}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after non-maximum suppression, best first.

    A box is found once for each class whose score is above the threshold.

    Args:
        outputs: Roles `boxes` (`(1, N, 4)`: left, top, right, bottom) and `scores` (`(1, N, columns)`, in 0..1).
        post: Options `candidates`, how many scores of each class are looked at, or, with `strides` and `boxes_per_cell`
            of a model's levels, how many of each level (RetinaNet, FCOS); `background`, the column of `scores` that is
            no class, or -1, class indices count the others; `relative`, true where boxes are in parts of the input's
            sides, false where they are in its pixels; `cut_first`, whether boxes are cut at the image's edges before
            they are compared, as torchvision does; and those of `NMS_OPTIONS`.
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
    wanted = class_columns(scores[0], options["background"], post)
    levels = _levels(options, placement, post, len(wanted)) if options["strides"] else None
    rows, classes = best_per_group(wanted, options["score_threshold"], int(options["candidates"]), levels)
    found = boxes[0, rows] * input_unit(placement, relative=options["relative"])
    found_scores = np.clip(wanted[rows, classes], 0, 1)
    return suppressed(found, found_scores, classes, options, placement, cut_first=options["cut_first"])


def _levels(options: Mapping[str, Any], placement: Placement, post: Postprocessing, boxes: int) -> NDArray[np.int64]:
    """Returns the number of the level of each box `(N,)`."""
    counts = cell_counts(placement, options["strides"])
    levels = np.repeat(np.arange(len(counts)), np.array(counts) * int(options["boxes_per_cell"]))
    require_anchors(len(levels), boxes, placement, post)
    return levels
