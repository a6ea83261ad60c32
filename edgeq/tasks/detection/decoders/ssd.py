"""SSD: boxes relative to anchors, with a score per class ("SSD: Single Shot MultiBox Detector", Liu et al., 2016).

Also the form of TensorFlow's SSD models without their post-processing, of RetinaFace ("RetinaFace", Deng et al., 2019)
and of UltraFace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.anchors import decode_anchors, grid_anchors, require_anchors, require_order
from edgeq.tasks.detection.decoders.candidates import FloatArray, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.decoders.scores import activate, best_per_group, class_columns
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

ROLES = {"boxes": "boxes", "scores": "scores"}
HEAD_OPTIONS: Mapping[str, Any] = {
    **NMS_OPTIONS,
    "iou_threshold": 0.45,
    "candidates": 400,
    "activation": "softmax",
    "background": 0,
    "variances": (0.1, 0.1, 0.2, 0.2),
    "order": "xywh",
    "cut_first": True,
}
"""Options of every head whose boxes are told by anchors; see `decode`."""

_OPTIONS = {**HEAD_OPTIONS, "anchors": (), "strides": (), "anchor_sizes": (), "even_grid": False}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best boxes after non-maximum suppression, best first.

    A box is found once for each class whose score is above the threshold.

    Args:
        outputs: Roles `boxes` (`(1, N, 4)`, an axis of length 1 more will do: shifts of the centre and logarithms of
            sizes) and `scores` (`(1, N, columns)`).
        post: Options `anchors`, one `[centre x, centre y, width, height]` per box in parts of the input's sides; or,
            without it, `strides` and `anchor_sizes`, for each stride the `[width, height]` of a cell's anchors in
            pixels, and `even_grid`, see `grid_anchors`; `variances` of x, y, width and height; `order` of the four
            numbers, `xywh` or `yxhw`; `activation` (`softmax`, `sigmoid`, `none`); `background`, the column of scores
            that is no class, or -1, class indices count the others; `candidates`, how many scores per class are looked
            at; `cut_first`, whether boxes are cut at the image's edges before they are compared, as torchvision and
            TensorFlow do; and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape, or there are not as many anchors as boxes.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    codes, scores = read_head(outputs, post)
    return decode_head(codes, scores, _anchors(options, placement, post), options, placement, post)


def read_head(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> tuple[FloatArray, FloatArray]:
    """Returns box codes `(N, 4)` and scores `(N, columns)` of the roles `boxes` and `scores`.

    Raises:
        ModelError: an output is missing or has another shape.
    """
    arrays = pick_outputs(outputs, post, ROLES)
    boxes, scores = arrays["boxes"], arrays["scores"]
    codes = boxes.reshape(-1, 4) if boxes.size % 4 == 0 else boxes
    if not (
        boxes.ndim >= 3
        and boxes.shape[0] == 1
        and boxes.shape[-1] == 4
        and scores.ndim == 3
        and scores.shape[:2] == (1, len(codes))
        and scores.shape[2] > 0
    ):
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (1, N, 4) and scores (1, N, columns), found {describe(arrays)}"
        )
    return codes, scores[0]


def decode_head(
    codes: FloatArray,
    scores: FloatArray,
    anchors: FloatArray,
    options: Mapping[str, Any],
    placement: Placement,
    post: Postprocessing,
) -> Detections:
    """Returns the best boxes after non-maximum suppression, best first.

    Args:
        codes: `(N, 4)`.
        scores: `(N, columns)`.
        anchors: `(N, 4)`: centre x, centre y, width and height in the input's pixels.
        options: Every name of `HEAD_OPTIONS`.
        placement: Where the image lies in the input.
        post: For errors.

    Raises:
        ModelError: there are not as many anchors as boxes.
        InputError: an option has a value that it cannot have.
    """
    require_order(options["order"], post)
    if len(options["variances"]) != 4:
        raise InputError(f"decoder {post.decoder}: option 'variances' is {options['variances']}, wanted four numbers")
    require_anchors(len(anchors), len(codes), placement, post)
    wanted = class_columns(activate(scores, options["activation"], post), options["background"], post)
    rows, classes = best_per_group(wanted, options["score_threshold"], int(options["candidates"]))
    boxes = decode_anchors(codes[rows], anchors[rows], options["variances"], options["order"])
    return suppressed(boxes, wanted[rows, classes], classes, options, placement, cut_first=options["cut_first"])


def _anchors(options: Mapping[str, Any], placement: Placement, post: Postprocessing) -> NDArray[np.float64]:
    if options["anchors"]:
        anchors = _array(options["anchors"])
        if anchors is None or anchors.ndim != 2 or anchors.shape[1] != 4:
            raise InputError(
                f"decoder {post.decoder}: option 'anchors' has other rows than [centre x, centre y, width, height]"
            )
        return np.asarray(anchors * np.array([placement.input_width_px, placement.input_height_px] * 2))
    strides, sizes = options["strides"], options["anchor_sizes"]
    levels = [_array(level) for level in sizes]
    fits = all(level is not None and level.ndim == 2 and level.shape[1] == 2 for level in levels)
    if not strides or min(strides) <= 0 or len(strides) != len(sizes) or not fits:
        raise InputError(
            f"decoder {post.decoder}: wanted the option 'anchors', or 'strides' above 0 and in 'anchor_sizes' for each "
            f"of them a list of [width, height]; found {len(strides)} strides and {len(sizes)} lists"
        )
    height, width = placement.input_height_px, placement.input_width_px
    return grid_anchors(height, width, strides, sizes, options["even_grid"])


def _array(value: Any) -> NDArray[np.float64] | None:
    """Returns nested lists as an array; `None` where they are not of one length."""
    try:
        return np.array(value, np.float64)
    except ValueError:
        return None
