"""Boxes and scores of all candidates, and which of them ONNX's NonMaxSuppression has selected inside the graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import input_unit
from edgeq.tasks.detection.decoders.corner_orders import to_corners
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections

_ROLES = {"boxes": "boxes", "scores": "scores", "selected": "selected_indices"}
_OPTIONS = {**NMS_OPTIONS, "nms": "none", "relative": False, "order": "yxyx", "first_class": 0}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the selected boxes whose score reaches the threshold, best first.

    Args:
        outputs: Roles `boxes` (`(1, N, 4)`), `scores` (`(1, classes, N)`) and `selected` (`(M, 3)`: batch, class,
            box), the three tensors at NonMaxSuppression. Rows that point nowhere, which some engines add, are left out.
        post: Options `order` of a box's numbers: `yxyx` as ONNX has it, `cxcywh` where the operator's
            `center_point_box` is 1, `xyxy`, `xywh`; `relative`, true where boxes are in parts of the input's sides;
            `first_class`, which row of scores stands for the first of the model's labels; and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    boxes, scores, selected = arrays["boxes"], arrays["scores"], arrays["selected"]
    fits = boxes.ndim == scores.ndim == 3 and boxes.shape == (1, scores.shape[2], 4) and scores.shape[0] == 1
    if not fits or selected.ndim != 2 or selected.shape[1] != 3:
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (1, N, 4), scores (1, classes, N) and selected (M, 3), found "
            f"{describe(arrays)}"
        )
    limits = np.array([1, *scores.shape[1:]])
    inside = ((selected >= (0, options["first_class"], 0)) & (selected < limits)).all(axis=1)
    _, rows, columns = selected[inside].astype(np.int64).T
    unit = input_unit(placement, relative=options["relative"])
    found = placement.to_image(to_corners(boxes[0, columns], options["order"], post) * unit)
    labels = rows - int(options["first_class"])
    return select_detections(Detections(found, np.clip(scores[0, rows, columns], 0, 1), labels), options)
