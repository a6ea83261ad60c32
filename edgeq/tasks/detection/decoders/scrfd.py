"""SCRFD: distances from a cell to a face's sides ("Sample and Computation Redistribution", Guo et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import cell_counts, grid
from edgeq.tasks.detection.decoders.roles import pick_options
from edgeq.tasks.detection.decoders.stride_outputs import join_strides
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections

_KINDS = {"score": 1, "bbox": 4}
_OPTIONS = {
    **NMS_OPTIONS,
    "score_threshold": 0.02,
    "iou_threshold": 0.4,
    "strides": (8, 16, 32),
    "anchors_per_cell": 2,
}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best faces after non-maximum suppression, best first.

    A face's sides lie `distance * stride` from the top left corner of its cell.

    Args:
        outputs: Roles `score_8`, `bbox_8` and so on for each stride: `(cells * anchors, 1 or 4)`, with a batch axis of
            length 1 or without one; scores in 0..1. Files whose outputs have other names, as those of InsightFace have,
            name them in the preset or have them told by their shapes.
        post: Options `strides`, `anchors_per_cell`, and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    strides, per_cell = options["strides"], int(options["anchors_per_cell"])
    if per_cell < 1:
        raise InputError(f"decoder {post.decoder}: option 'anchors_per_cell' is {per_cell}, wanted 1 or more")
    named = outputs if post.outputs else _named_by_shape(outputs, placement, strides, per_cell)
    found_scores, found_boxes = join_strides(named, post, placement, _KINDS, strides, per_cell)
    scores = np.clip(found_scores[:, 0], 0, 1)
    above = np.flatnonzero(scores >= options["score_threshold"])
    cells, sizes = (
        each[above // per_cell] for each in grid(placement.input_height_px, placement.input_width_px, strides)
    )
    distances = found_boxes[above].astype(np.float64)
    boxes = np.concatenate([cells - distances[:, :2], cells + distances[:, 2:]], axis=1) * sizes
    kept = select_detections(Detections(boxes, scores[above], np.zeros(len(above), np.int64)), options)
    return Detections(placement.to_image(kept.boxes), kept.scores, kept.classes)


def _named_by_shape(
    outputs: Mapping[str, np.ndarray], placement: Placement, strides: Sequence[float], per_cell: int
) -> dict[str, np.ndarray]:
    """Returns the outputs, those of scores and boxes under the names of their roles."""
    rows = {count * per_cell: stride for stride, count in zip(strides, cell_counts(placement, strides), strict=True)}
    kinds = {columns: kind for kind, columns in _KINDS.items()}
    named = dict(outputs)
    for array in outputs.values():
        columns = array.shape[-1] if array.ndim > 1 else 0
        if columns in kinds and array.size // columns in rows:
            named.setdefault(f"{kinds[columns]}_{rows[array.size // columns]:g}", array)
    return named
