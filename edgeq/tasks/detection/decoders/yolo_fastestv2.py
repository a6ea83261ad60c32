"""YOLO-FastestV2: three anchors a cell that share their classes (the detector of that name by dog-qiuqiu, 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import corners, pick_scores, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_OPTIONS = {
    **NMS_OPTIONS,
    "iou_threshold": 0.4,
    "multi_label": False,
    "candidates": 30000,
    "strides": (16, 32),
    "anchors": (
        (12.64, 19.39, 37.88, 51.48, 55.71, 138.31),
        (126.91, 78.23, 131.57, 214.55, 279.92, 258.87),
    ),
}

FloatArray = NDArray[np.floating]


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after non-maximum suppression, best first; a score is objectness x probability.

    Boxes are `(2 * xy - 0.5 + cell) * stride` and `(2 * wh) ** 2 * anchor`.

    Args:
        outputs: For each stride `(1, H, W, 5 * anchors + classes)`, or with the channels first: x, y, w, h of every
            anchor, the objectness of every anchor, and the classes' probabilities, all in 0..1.
        post: Options `anchors`, for each stride a list of widths and heights in the input's pixels; `strides`;
            `multi_label`, whether a box may be of several classes; `candidates`, how many scores are looked at; and
            those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the outputs do not have these shapes.
        InputError: an option is unknown or of another type.
    """
    options = pick_options(post, _OPTIONS)
    anchors = [np.asarray(each, np.float64).reshape(-1, 2) for each in options["anchors"]]
    levels = _levels(outputs, post, placement, anchors, options)
    found = [
        _level(level, sizes, stride, options)
        for level, sizes, stride in zip(levels, anchors, options["strides"], strict=True)
    ]
    boxes, scores, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return suppressed(boxes, scores, classes, options, placement)


def _levels(
    outputs: Mapping[str, np.ndarray],
    post: Postprocessing,
    placement: Placement,
    anchors: Sequence[FloatArray],
    options: Mapping[str, Any],
) -> list[NDArray[np.float32]]:
    """Returns the output of each stride as `(channels, H, W)`."""
    shapes = [
        tuple(-(-side // int(stride)) for side in (placement.input_height_px, placement.input_width_px))
        for stride in options["strides"]
    ]
    maps = [np.asarray(each[0], np.float32) for each in outputs.values() if each.ndim == 4 and len(each) == 1]
    found = [
        next((each for each in (*maps, *(other.transpose(2, 0, 1) for other in maps)) if each.shape[1:] == shape), None)
        for shape in shapes
    ]
    levels = [
        each for each, sizes in zip(found, anchors, strict=False) if each is not None and len(each) > 5 * len(sizes)
    ]
    if not len(levels) == len(shapes) == len(anchors):
        wanted = ", ".join(f"(1, {rows}, {columns}, 5 * anchors + classes)" for rows, columns in shapes)
        raise ModelError(f"decoder {post.decoder}: wanted {wanted}, found {describe(outputs)}")
    return levels


def _level(
    level: NDArray[np.float32], anchors: FloatArray, stride: float, options: Mapping[str, Any]
) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Returns boxes, scores and classes of one stride that reach the threshold."""
    count = len(anchors)
    values, objectness, classes = level[: 4 * count], level[4 * count : 5 * count], level[5 * count :]
    which, rows, columns = np.nonzero(objectness >= options["score_threshold"])
    scores = classes[:, rows, columns].T * objectness[which, rows, columns][:, None]
    kept, labels = pick_scores(
        scores, options["score_threshold"], multi_label=options["multi_label"], limit=int(options["candidates"])
    )
    which, rows, columns = which[kept], rows[kept], columns[kept]
    box = values.reshape(count, 4, *level.shape[1:])[which, :, rows, columns].astype(np.float64)
    centres = (2 * box[:, :2] - 0.5 + np.stack([columns, rows], axis=1)) * stride
    return corners(centres, (2 * box[:, 2:]) ** 2 * anchors[which]), scores[kept, labels], labels
