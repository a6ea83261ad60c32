"""FastestDet: one anchor-free prediction a cell of a single map (the detector of that name by dog-qiuqiu, 2022)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import sigmoid
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import suppress_overlaps

_ROLES = {"predictions": "output"}
_OPTIONS = {"score_threshold": 0.001, "iou_threshold": 0.45, "top_k": 100}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best `top_k` boxes after class-wise non-maximum suppression, best first.

    Each cell predicts one box of one class: its centre is `cell + tanh(xy)` on the map, its size `sigmoid(wh)` of the
    whole input, its score `objectness ** 0.6 * probability ** 0.4` of the best class.

    Args:
        outputs: Role `predictions`: `(1, 5 + classes, H, W)` with objectness, x, y, w, h and class probabilities.
        post: Options `score_threshold`, `iou_threshold`, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing or has another shape.
    """
    options = pick_options(post, _OPTIONS)
    predictions = pick_outputs(outputs, post, _ROLES)["predictions"]
    if predictions.ndim != 4 or predictions.shape[0] != 1 or predictions.shape[1] <= 5:
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, 5 + classes, H, W), found {describe(outputs)}"
        )
    height, width = predictions.shape[2:]
    cells = predictions[0].reshape(predictions.shape[1], -1)
    objectness, probabilities = np.maximum(cells[0], 0), np.maximum(cells[5:].max(axis=0), 0)
    scores = np.clip(objectness**0.6 * probabilities**0.4, 0, 1)
    above = np.flatnonzero(scores >= options["score_threshold"])
    found, scores = cells[:, above], scores[above]
    classes = found[5:].argmax(axis=0)
    centres = (np.tanh(found[1:3].T) + np.stack([above % width, above // width], axis=1)) / (width, height)
    half_sizes = sigmoid(found[3:5].T) / 2
    input_size = np.array([placement.input_width_px, placement.input_height_px] * 2)
    boxes = np.concatenate([centres - half_sizes, centres + half_sizes], axis=1) * input_size
    kept = suppress_overlaps(boxes, scores, classes, options["iou_threshold"], int(options["top_k"]))
    return Detections(placement.to_image(boxes[kept]), scores[kept], classes[kept])
