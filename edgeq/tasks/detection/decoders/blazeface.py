"""BlazeFace: offsets in pixels from fixed points, overlapping faces averaged ("BlazeFace", Bazarevsky et al., 2019)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.anchors import grid_anchors, require_anchors
from edgeq.tasks.detection.decoders.candidates import corners, sigmoid
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections

_ROLES = {"boxes": "regressors", "scores": "classificators"}
_OPTIONS = {
    **NMS_OPTIONS,
    "nms": "weighted",
    "score_threshold": 0.02,
    "iou_threshold": 0.3,
    "strides": (8, 16, 16, 16),
    "anchors_per_layer": 2,
}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best objects after weighted non-maximum suppression, best first.

    A box's centre is that of its cell plus x, y, its size is w, h, all in pixels; anchors have no size.

    Args:
        outputs: Roles `boxes` (`(1, N, 4 or more)`: x, y, w, h, then landmarks) and `scores` (`(1, N, 1)`, before the
            sigmoid).
        post: Options `strides`, of each layer of the head: layers of one stride that follow each other share its cells;
            `anchors_per_layer`; and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape, or there are not as many anchors as boxes.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    boxes, logits = arrays["boxes"], arrays["scores"]
    if not (boxes.ndim == 3 and boxes.shape[0] == 1 and boxes.shape[2] >= 4 and logits.shape == (1, boxes.shape[1], 1)):
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (1, N, 4 or more) and scores (1, N, 1), found {describe(arrays)}"
        )
    per_layer = int(options["anchors_per_layer"])
    if per_layer < 1 or not options["strides"] or min(options["strides"]) <= 0:
        raise InputError(
            f"decoder {post.decoder}: strides are {options['strides']} and anchors_per_layer {per_layer}; wanted "
            "numbers above 0"
        )
    runs = [(stride, len(list(layers))) for stride, layers in itertools.groupby(options["strides"])]
    strides, sizes = zip(*((stride, ((0.0, 0.0),) * (layers * per_layer)) for stride, layers in runs), strict=True)
    anchors = grid_anchors(placement.input_height_px, placement.input_width_px, strides, sizes, even=True)
    require_anchors(len(anchors), boxes.shape[1], placement, post)
    scores = sigmoid(logits[0, :, 0])
    above = np.flatnonzero(scores >= options["score_threshold"])
    codes = boxes[0, above, :4].astype(np.float64)
    placed = corners(anchors[above, :2] + codes[:, :2], np.maximum(codes[:, 2:], 0))
    kept = select_detections(Detections(placed, scores[above], np.zeros(len(above), np.int64)), options)
    return Detections(placement.to_image(kept.boxes), kept.scores, kept.classes)
