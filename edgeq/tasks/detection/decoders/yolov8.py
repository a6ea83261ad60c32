"""YOLOv8's form: a box and a score for each class, and no objectness.

YOLOv8 to v9, v11, v12 and YOLO-World give `(1, 4 + classes, N)` with centres and sizes; YOLO-NAS, DAMO-YOLO and
PP-YOLOE give boxes by their corners and scores as two outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import cell_counts, corners, input_unit, pick_scores, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_OPTIONS = {
    **NMS_OPTIONS,
    "iou_threshold": 0.7,
    "multi_label": True,
    "candidates": 30000,
    "corners": False,
    "relative": False,
}
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))

FloatArray = NDArray[np.float32]


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after non-maximum suppression, best first.

    Args:
        outputs: Role `predictions`: `(1, 4 + classes, N)` or `(1, N, 4 + classes)`, a box and then probabilities; or
            roles `boxes` (`(1, 4, N)` or `(1, N, 4)`) and `scores`, which are found by their shapes without names.
        post: Options `corners`, true where a box is left, top, right, bottom and not centre and size; `relative`, true
            where boxes are in parts of the input's sides, false where they are in its pixels; `multi_label`, whether a
            box may be of several classes; `candidates`, how many scores are looked at; and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option is unknown or of another type.
    """
    options = pick_options(post, _OPTIONS)
    boxes, scores = _boxes_and_scores(outputs, post, placement)
    rows, classes = pick_scores(
        scores,
        options["score_threshold"],
        multi_label=options["multi_label"],
        limit=int(options["candidates"]),
    )
    found: NDArray[np.floating] = boxes[rows] * input_unit(placement, relative=options["relative"])
    if not options["corners"]:
        found = corners(found[:, :2], found[:, 2:])
    return suppressed(found, scores[rows, classes], classes, options, placement)


def _boxes_and_scores(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement
) -> tuple[FloatArray, FloatArray]:
    """Returns views of the boxes `(N, 4)` and the scores `(N, classes)`."""
    if "boxes" in post.outputs or "scores" in post.outputs:
        given = pick_outputs(outputs, post, {"boxes": "boxes", "scores": "scores"})
    else:
        given = _by_shape(outputs, post)
    if "predictions" in given:
        rows = _rows(given["predictions"], placement)
        if rows is not None and rows.shape[1] > 4:
            return rows[:, :4], rows[:, 4:]
    elif len(given) == 2:
        boxes = _rows(given["boxes"], placement, columns=4)
        scores = None if boxes is None else _rows(given["scores"], placement, count=len(boxes))
        if boxes is not None and scores is not None:
            return boxes, scores
    raise ModelError(
        f"decoder {post.decoder}: wanted predictions (1, 4 + classes, N) or (1, N, 4 + classes), or boxes (1, N, 4) "
        f"and scores (1, N, classes), found {describe(outputs)}"
    )


def _by_shape(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> dict[str, FloatArray]:
    """Returns role -> output, told by the shapes: of two outputs the boxes are the one with an axis of 4."""
    if "predictions" in post.outputs or len(outputs) == 1:
        return pick_outputs(outputs, post, {"predictions": "output0"})
    arrays = {name: np.asarray(each, np.float32) for name, each in outputs.items() if each.ndim == 3}
    boxes = [name for name, each in arrays.items() if 4 in each.shape[1:]]
    if len(arrays) == 2 and len(boxes) == 1:
        (other,) = arrays.keys() - set(boxes)
        return {"boxes": arrays[boxes[0]], "scores": arrays[other]}
    return pick_outputs(outputs, post, {"predictions": "output0"})


def _rows(
    array: FloatArray, placement: Placement, *, columns: int | None = None, count: int | None = None
) -> FloatArray | None:
    """Returns a view `(N, columns)`, whichever axis comes first; `None` if the array has no such axes.

    N is told by the number of rows or columns, if one is known, or as that of the cells of usual strides, or else it
    is the longer axis.
    """
    if array.ndim != 3 or array.shape[0] != 1:
        return None
    matrix: FloatArray = array[0]
    if columns is not None or count is not None:
        straight = matrix.shape[1] == columns if columns is not None else len(matrix) == count
        turned = len(matrix) == columns if columns is not None else matrix.shape[1] == count
        if not (straight or turned):
            return None
        return matrix if straight else matrix.T
    usual = {sum(cell_counts(placement, strides)) for strides in _STRIDES}
    known = [length in usual for length in matrix.shape]
    straight = known[0] if known[0] != known[1] else matrix.shape[0] >= matrix.shape[1]
    return matrix if straight else matrix.T
