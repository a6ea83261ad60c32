"""Anchor-free heads that predict the distances from a cell to the four sides of its box, with a score for each class.

The form of FCOS (Tian et al., 2019), RTMDet (Lyu et al., 2022) and, where each distance is the mean of a distribution
over whole numbers, of "Generalized Focal Loss" (Li et al., 2020): NanoDet, PicoDet, DAMO-YOLO, YOLOv6 and YOLOv8
before their last layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import cell_counts, grid, logit, pick_scores, sigmoid, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_ORDERS = ("scores_boxes", "boxes_scores")
_OPTIONS = {
    **NMS_OPTIONS,
    "iou_threshold": 0.6,
    "multi_label": True,
    "candidates": 30000,
    "strides": (8, 16, 32),
    "bins": 16,
    "offset": 0.5,
    "logits": True,
    "in_strides": True,
    "cut_at_input": False,
    "order": _ORDERS[0],
}

FloatArray = NDArray[np.floating]


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after non-maximum suppression, best first.

    Args:
        outputs: Scores `(1, cells, classes)` and boxes `(1, cells, 4 * bins)`, with channels in front of the cells too,
            as maps `(1, channels, H, W)` too, in one output or two, for all strides together or for each. They are
            told by their shapes: roles have no names.
        post: Options `strides`; `bins`, how many whole numbers a distance is distributed over, 1 for plain distances;
            `offset`, where in its cell the point lies that distances start from, in 0..1; `logits`, whether scores are
            before the sigmoid; `in_strides`, whether distances are in strides and not in pixels; `cut_at_input`,
            whether boxes are cut at the input's edges before they are compared, which changes their overlaps; `order`,
            `scores_boxes` or `boxes_scores`, of the channels that share an output and of outputs of one shape;
            `multi_label`, whether a box may be of several classes; `candidates`, how many scores are looked at;
            and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the outputs do not have these shapes.
        InputError: an option is unknown or of another type.
    """
    options = pick_options(post, _OPTIONS)
    bins = int(options["bins"])
    if options["order"] not in _ORDERS or bins < 1:
        raise InputError(
            f"decoder {post.decoder}: option 'order' is {options['order']!r} and 'bins' {bins}; wanted "
            f"{' or '.join(_ORDERS)}, and 1 bin or more"
        )
    levels = _levels(outputs, post, placement, options)
    threshold = options["score_threshold"]
    places, classes, scores, boxes = [], [], [], []
    first = 0
    for level_scores, level_boxes in levels:
        rows, found = pick_scores(
            level_scores,
            logit(threshold) if options["logits"] else threshold,
            multi_label=options["multi_label"],
            limit=int(options["candidates"]),
        )
        places.append(rows + first)
        classes.append(found)
        scores.append(level_scores[rows, found])
        boxes.append(level_boxes[rows])
        first += len(level_scores)
    where, values = np.concatenate(places), np.concatenate(scores).astype(np.float64)
    height, width = placement.input_height_px, placement.input_width_px
    cells, strides = grid(height, width, options["strides"])
    distances = _expected(np.concatenate(boxes).astype(np.float64), bins)
    if options["in_strides"]:
        distances = distances * strides[where]
    points = (cells[where] + options["offset"]) * strides[where]
    found_boxes = np.concatenate([points - distances[:, :2], points + distances[:, 2:]], axis=1)
    if options["cut_at_input"]:
        found_boxes = np.clip(found_boxes, 0, [width, height, width, height])
    found_scores = sigmoid(values) if options["logits"] else values
    return suppressed(found_boxes, found_scores, np.concatenate(classes), options, placement)


def _expected(values: FloatArray, bins: int) -> FloatArray:
    """Returns distances `(N, 4)` of `(N, 4 * bins)`: the mean of 0..bins-1 by the softmax of each group."""
    if bins == 1:
        return values
    groups = values.reshape(-1, 4, bins)
    weights = np.exp(groups - groups.max(axis=2, keepdims=True))
    expected: FloatArray = (weights @ np.arange(bins)) / weights.sum(axis=2)
    return expected


def _levels(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement, options: Mapping[str, Any]
) -> list[tuple[FloatArray, FloatArray]]:
    """Returns views of scores `(cells, classes)` and boxes `(cells, 4 * bins)` that cover the grid, in its order."""
    counts = cell_counts(placement, options["strides"])
    tables = [each for each in (_table(array, counts) for array in outputs.values()) if each is not None]
    whole = [each for each in tables if len(each) == sum(counts)]
    groups = [whole] if whole else [[each for each in tables if len(each) == count] for count in counts]
    levels = [_split(group, 4 * int(options["bins"]), options["order"] == _ORDERS[0]) for group in groups]
    found = [level for level in levels if level is not None]
    if len(found) < len(groups) or len({scores.shape[1] for scores, _ in found}) != 1:
        raise ModelError(
            f"decoder {post.decoder}: wanted scores and {4 * int(options['bins'])} channels of boxes for "
            f"{' + '.join(map(str, counts))} cells, for an input of {placement.input_width_px}x"
            f"{placement.input_height_px}; found {describe(outputs)}. Options `strides` and `bins` say what is wanted"
        )
    return found


def _table(array: np.ndarray, counts: list[int]) -> FloatArray | None:
    """Returns a view `(cells, channels)` of an output; `None` where no axis has as many cells as the grid."""
    if array.ndim not in (3, 4) or len(array) != 1:
        return None
    matrix = np.asarray(array[0] if array.ndim == 3 else array[0].reshape(array.shape[1], -1))
    known = [length for length in matrix.shape if length in (*counts, sum(counts))]
    if not known:
        return None
    # Channels come first in a map. Elsewhere the longer of two axes that both fit is taken for the cells.
    turned = array.ndim == 4 or len(matrix) != max(known)
    return matrix.T if turned else matrix


def _split(tables: list[FloatArray], channels: int, scores_first: bool) -> tuple[FloatArray, FloatArray] | None:
    """Returns scores and boxes out of one table of both, or of two; `None` where they are not there."""
    if len(tables) == 1 and tables[0].shape[1] > channels:
        (both,) = tables
        classes = both.shape[1] - channels
        return (both[:, :classes], both[:, classes:]) if scores_first else (both[:, channels:], both[:, :channels])
    boxes = [index for index, table in enumerate(tables) if table.shape[1] == channels]
    if len(tables) != 2 or not boxes:
        return None
    index = boxes[0] if len(boxes) == 1 else int(scores_first)
    return tables[1 - index], tables[index]
