"""YuNet: one face per cell of three grids ("YuNet: A Tiny Millisecond-level Face Detector", Wu et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import corners, grid
from edgeq.tasks.detection.decoders.roles import pick_options
from edgeq.tasks.detection.decoders.stride_outputs import join_strides
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections

_KINDS = {"cls": 1, "obj": 1, "bbox": 4}
_OPTIONS = {**NMS_OPTIONS, "score_threshold": 0.02, "iou_threshold": 0.45, "strides": (8, 16, 32)}
_LARGEST_LOG = 16.0


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best faces after non-maximum suppression, best first.

    A face's centre is `(cell + xy) * stride`, its size `exp(wh) * stride`, its score the geometric mean of class and
    objectness.

    Args:
        outputs: Roles `cls_8`, `obj_8`, `bbox_8` and so on for each stride: `(1, cells, 1 or 4)`, scores in 0..1.
        post: Options `strides` and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    # The landmarks are of another task.
    found = join_strides(outputs, post, placement, _KINDS, options["strides"], per_cell=1)
    scores = np.sqrt(np.clip(found[0][:, 0], 0, 1) * np.clip(found[1][:, 0], 0, 1))
    above = np.flatnonzero(scores >= options["score_threshold"])
    cells, strides = (
        each[above] for each in grid(placement.input_height_px, placement.input_width_px, options["strides"])
    )
    codes = found[2][above].astype(np.float64)
    boxes = corners((cells + codes[:, :2]) * strides, np.exp(np.minimum(codes[:, 2:], _LARGEST_LOG)) * strides)
    kept = select_detections(Detections(boxes, scores[above], np.zeros(len(above), np.int64)), options)
    return Detections(placement.to_image(kept.boxes), kept.scores, kept.classes)
