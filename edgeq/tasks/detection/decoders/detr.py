"""DETR and its family: each query is one box, without suppression ("End-to-End Object Detection", Carion et al., 2020).

Deformable DETR (Zhu et al., 2020), RT-DETR (Zhao et al., 2023), D-FINE (Peng et al., 2024), RF-DETR and YOLOS (Fang et
al., 2021) have the same two outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import corners, input_unit, sigmoid
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.decoders.scores import softmax
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections

_ROLES = {"logits": "logits", "boxes": "pred_boxes"}
_OPTIONS = {**NMS_OPTIONS, "nms": "none", "activation": "softmax"}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes, best first.

    Args:
        outputs: Roles `logits` (`(1, queries, columns)`) and `boxes` (`(1, queries, 4)`: centre x, centre y, width and
            height in parts of the input's sides).
        post: Options `activation`: with `softmax` the last column stands for no object, and a query has its best class
            (DETR, YOLOS); with `sigmoid` all columns are classes, and a query is found once for each (RT-DETR, D-FINE,
            Deformable DETR). And those of `NMS_OPTIONS`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    logits, boxes = arrays["logits"], arrays["boxes"]
    if not (logits.ndim == boxes.ndim == 3 and boxes.shape == (1, logits.shape[1], 4) and logits.shape[2] > 1):
        raise ModelError(
            f"decoder {post.decoder}: wanted logits (1, queries, columns) and boxes (1, queries, 4), found "
            f"{describe(arrays)}"
        )
    if options["activation"] == "softmax":
        scores = softmax(logits[0])[:, :-1]
        queries, classes = np.arange(len(scores)), scores.argmax(axis=1)
    elif options["activation"] == "sigmoid":
        scores = sigmoid(logits[0])
        queries, classes = np.nonzero(scores >= options["score_threshold"])
    else:
        raise InputError(
            f"decoder {post.decoder}: option 'activation' is {options['activation']!r}; known: softmax, sigmoid"
        )
    found = boxes[0, queries].astype(np.float64)
    placed = placement.to_image(corners(found[:, :2], found[:, 2:]) * input_unit(placement, relative=True))
    return select_detections(Detections(placed, scores[queries, classes], classes), options)
