"""Detections that the graph has chosen already: there is nothing left to decode.

torchvision's exported detectors, TensorFlow's `TFLite_Detection_PostProcess`, TensorRT's `EfficientNMS_TRT`, and the
exported RT-DETR of its authors end like this.
"""

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

_ROLES = {"boxes": "boxes", "scores": "scores", "classes": "labels"}
_COUNT = {"count": "num_dets"}
_OPTIONS = {**NMS_OPTIONS, "nms": "none", "relative": False, "order": "xyxy", "first_class": 0}
_LARGEST_CLASS = 1 << 24  # up to which float32 holds every whole number


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the boxes of known classes whose score reaches the threshold, best first.

    Args:
        outputs: Roles `boxes` (`(N, 4)`), `scores` and `classes` (`(N,)`), each with a batch axis of length 1 or
            without one. Role `count`, where the model has it, is how many of the N there are; the rest is filling.
        post: Options `order` of a box's numbers (`xyxy`, `yxyx`, `xywh` from the left top corner, or `cxcywh` from the
            centre); `relative`, true where boxes are in parts of the input's sides, false where they are in its pixels;
            `first_class`, which number stands for the first of the model's labels: 1 where 0 is the background, whose
            boxes are left out; and those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    counted = "count" in post.outputs or _COUNT["count"] in outputs
    arrays = pick_outputs(outputs, post, _ROLES | _COUNT if counted else _ROLES)
    boxes, scores, classes = arrays["boxes"], arrays["scores"].ravel(), arrays["classes"].ravel()
    if boxes.ndim < 2 or boxes.shape[-1] != 4 or not boxes.size == 4 * scores.size == 4 * classes.size:
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (1, N, 4), scores (1, N) and classes (1, N), found "
            f"{describe(arrays)}"
        )
    if counted and arrays["count"].size != 1:
        raise ModelError(f"decoder {post.decoder}: wanted one number as count, found {describe(arrays)}")
    count = int(np.clip(arrays["count"].item(), 0, len(scores))) if counted else len(scores)
    labels = np.clip(np.rint(classes[:count]), -1, _LARGEST_CLASS).astype(np.int64) - int(options["first_class"])
    known = np.flatnonzero(labels >= 0)
    unit = input_unit(placement, relative=options["relative"])
    found = placement.to_image(to_corners(boxes.reshape(-1, 4)[known], options["order"], post) * unit)
    return select_detections(Detections(found, np.clip(scores[known], 0, 1), labels[known]), options)
