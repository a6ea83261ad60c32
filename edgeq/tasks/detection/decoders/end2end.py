"""End-to-end detectors: the model chooses its detections itself, one row each ("YOLOv10", Wang et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import corners, input_unit, suppressed
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS

_CORNERS = ("left", "top", "right", "bottom")
_CENTRE = ("centre_x", "centre_y", "width", "height")
_COLUMNS = (*_CORNERS, "score", "class")
END_TO_END = len(_COLUMNS)
"""Columns that ultralytics' end-to-end rows of every task begin with: a box, its score and its class."""
_OPTIONS = {**NMS_OPTIONS, "nms": "none", "columns": " ".join(_COLUMNS), "relative": False}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the `top_k` best of the model's detections, best first.

    Args:
        outputs: Role `detections`: `(1, N, columns)` or `(N, columns)`; if that lacks the class, an output
            `(1, N)` or `(N,)` has them, role `classes`. Rows of class -1 are padding.
        post: Option `columns`, what each column is: left, top, right and bottom, or centre_x, centre_y, width and
            height; score and class; others (the number of the image) under any name; in any order. `relative`, true
            where boxes are in parts of the input's sides, false where they are in its pixels; and those of
            `NMS_OPTIONS`, `nms` being `none`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option is unknown or of another type, or `columns` lacks one.
    """
    options = pick_options(post, _OPTIONS)
    names = options["columns"].split()
    rows, classes = _rows(outputs, post, len(names))
    if classes is not None and "class" in names:
        names.remove("class")
    sides = _CENTRE if _CENTRE[0] in names else _CORNERS
    wanted = [*sides, "score", *(["class"] if classes is None else [])]
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"decoder {post.decoder}: option 'columns' lacks {missing[0]!r}; it is {options['columns']!r}")
    if rows.shape[1] != len(names):
        raise ModelError(
            f"decoder {post.decoder}: wanted rows of {len(names)} columns ({', '.join(names)}), found "
            f"{describe(outputs)}; name each in the option `columns`"
        )
    boxes, scores = rows[:, [names.index(side) for side in sides]], rows[:, names.index("score")]
    if sides == _CENTRE:
        boxes = corners(boxes[:, :2], boxes[:, 2:])
    classes = rows[:, names.index("class")] if classes is None else classes
    real = classes >= 0
    unit = input_unit(placement, relative=options["relative"])
    return suppressed(boxes[real] * unit, scores[real], np.rint(classes[real]).astype(np.int64), options, placement)


def _rows(
    outputs: Mapping[str, np.ndarray], post: Postprocessing, columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Returns the rows `(N, columns)`, and the classes `(N,)` if they are an output of their own."""
    batched = any(each.ndim == 3 for each in outputs.values())
    arrays = {name: each[0] if batched and each.ndim > 1 and len(each) == 1 else each for name, each in outputs.items()}
    if not post.outputs:
        tables = [name for name, each in arrays.items() if each.ndim == 2]
        if len(tables) == 1:
            table = arrays[tables[0]]
            lists = [
                name for name, each in arrays.items() if each.shape == table.shape[:1] and table.shape[1] < columns
            ]
            names = {"detections": tables[0]} | ({"classes": lists[0]} if len(lists) == 1 else {})
            post = Postprocessing(post.decoder, names, post.options)
    roles = {"detections": "output0"} | ({"classes": "labels"} if "classes" in post.outputs else {})
    picked = pick_outputs(arrays, post, roles)
    rows, classes = picked["detections"], picked.get("classes")
    if rows.ndim != 2 or (classes is not None and classes.shape != rows.shape[:1]):
        raise ModelError(f"decoder {post.decoder}: wanted detections (1, N, columns), found {describe(outputs)}")
    return rows, classes


def chosen_rows(
    rows: NDArray[np.float32], options: Mapping[str, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Returns boxes `(N, 4)`, scores, classes and further columns of a model's own detections, best first.

    Args:
        rows: `(N, 6 + columns)`: four numbers of a box, its score and its class, and what else the task has.
        options: `score_threshold`, and `top_k`, how many are kept at most.
    """
    order = np.argsort(-rows[:, 4], kind="stable")
    order = order[rows[order, 4] >= options["score_threshold"]][: int(options["top_k"])]
    found = rows[order]
    return found[:, :4], found[:, 4], np.rint(found[:, 5]).astype(np.int64), found[:, END_TO_END:]
