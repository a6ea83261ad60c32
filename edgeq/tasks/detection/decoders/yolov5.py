"""YOLOv5's form: a box, its objectness and a probability for each class.

YOLOv3 to v7 and YOLOX with decoding in the graph give `(1, N, 5 + classes)`. With `anchors` the decoder takes the maps
before that: boxes are `(2 * sigmoid(xy) - 0.5 + cell) * stride` and `(2 * sigmoid(wh)) ** 2 * anchor`, the form that
"Scaled-YOLOv4" (Wang et al., 2021) describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import corners, input_unit, logit, pick_scores, sigmoid, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_OPTIONS = {
    **NMS_OPTIONS,
    "iou_threshold": 0.6,
    "multi_label": True,
    "candidates": 30000,
    "relative": False,
    "anchors": (),
    "strides": (8, 16, 32),
}
_BOX, _OBJECTNESS, _CLASSES = slice(0, 4), 4, slice(5, None)

FloatArray = NDArray[np.floating]


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after non-maximum suppression, best first; a score is objectness x probability.

    Args:
        outputs: Role `predictions`: `(1, N, 5 + classes)` with centre, size, objectness and probabilities. With the
            option `anchors`: one map per stride of logits, `(1, anchors * (5 + classes), H, W)` or
            `(1, anchors, H, W, 5 + classes)`, told apart by their sizes.
        post: Options `anchors`, for each stride a list of widths and heights in the input's pixels; `strides`;
            `relative`, true where boxes are in parts of the input's sides, false where they are in its pixels;
            `multi_label`, whether a box may be of several classes; `candidates`, how many scores are looked at; and
            those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option is unknown or of another type, or there are not as many lists of anchors as strides.
    """
    options = pick_options(post, _OPTIONS)
    rows = (
        _from_maps(outputs, post, placement, options)
        if options["anchors"]
        else _from_rows(outputs, post, placement, options)
    )
    scores = rows[:, _CLASSES] * rows[:, _OBJECTNESS, None]
    places, classes = pick_scores(
        scores,
        options["score_threshold"],
        multi_label=options["multi_label"],
        limit=int(options["candidates"]),
    )
    boxes = corners(rows[places, :2], rows[places, 2:4])
    return suppressed(boxes, scores[places, classes], classes, options, placement)


def _from_rows(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement, options: Mapping[str, Any]
) -> FloatArray:
    """Returns the rows `(K, 5 + classes)` whose objectness reaches the threshold, boxes in the input's pixels."""
    decoded = [name for name, each in outputs.items() if each.ndim == 3]
    if not post.outputs and len(decoded) == 1:  # the maps that some exporters add have four or five axes
        outputs = {decoded[0]: outputs[decoded[0]]}
    predictions = pick_outputs(outputs, post, {"predictions": "output0"})["predictions"]
    if predictions.ndim != 3 or predictions.shape[0] != 1 or predictions.shape[2] <= 5:
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, N, 5 + classes), found {describe(outputs)}; give maps of "
            "logits with the option `anchors`"
        )
    # No probability exceeds 1, so objectness alone drops most rows before the classes are looked at.
    rows: FloatArray = predictions[0][predictions[0, :, _OBJECTNESS] >= options["score_threshold"]].astype(np.float64)
    rows[:, _BOX] *= input_unit(placement, relative=options["relative"])
    return rows


def _from_maps(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement, options: Mapping[str, Any]
) -> FloatArray:
    """Returns the same, computed from maps of logits."""
    anchors = [np.asarray(each, np.float64).reshape(-1, 2) for each in options["anchors"]]
    strides = options["strides"]
    if len(anchors) != len(strides):
        raise InputError(
            f"decoder {post.decoder}: option 'anchors' has {len(anchors)} lists, wanted one for each of the strides "
            f"{', '.join(map(str, strides))}"
        )
    maps = [_as_map(each, len(anchors[0])) for each in outputs.values() if each.ndim in (4, 5)]
    found = []
    for sizes, stride in zip(anchors, strides, strict=True):
        shape = tuple(-(-side // int(stride)) for side in (placement.input_height_px, placement.input_width_px))
        level = next((each for each in maps if each is not None and each.shape[2:] == shape), None)
        if level is None or level.shape[0] != len(sizes) or level.shape[1] <= 5:
            raise ModelError(
                f"decoder {post.decoder}: wanted a map (1, {len(sizes)} * (5 + classes), {shape[0]}, {shape[1]}) of "
                f"stride {stride}, found {describe(outputs)}"
            )
        found.append(_level_rows(level, sizes, float(stride), logit(options["score_threshold"])))
    return np.concatenate(found)


def _as_map(array: np.ndarray, anchors: int) -> NDArray[np.float32] | None:
    """Returns a view `(anchors, 5 + classes, H, W)` of an output; `None` where it has no such form."""
    if array.shape[0] != 1:
        return None
    if array.ndim == 5:
        return np.asarray(array[0].transpose(0, 3, 1, 2), np.float32)
    if array.shape[1] % anchors:
        return None
    return np.asarray(array[0].reshape(anchors, -1, *array.shape[2:]), np.float32)


def _level_rows(level: NDArray[np.float32], anchors: FloatArray, stride: float, threshold: float) -> FloatArray:
    """Returns the rows of one map whose objectness, a logit, reaches the threshold."""
    which, rows, columns = np.nonzero(level[:, _OBJECTNESS] >= threshold)
    values = sigmoid(level[which, :, rows, columns].astype(np.float64))
    values[:, :2] = (2 * values[:, :2] - 0.5 + np.stack([columns, rows], axis=1)) * stride
    values[:, 2:4] = (2 * values[:, 2:4]) ** 2 * anchors[which]
    return values
