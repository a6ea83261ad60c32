"""YOLO with masks: each object mixes prototypes ("YOLACT", Bolya et al., 2019), as in the form that YOLOv8 exports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.detection.nms import suppress_overlaps
from edgeq.tasks.instances.instances import Instances
from edgeq.tasks.maps import ImageSampler
from edgeq.tasks.masks import RunLengths, encode

_ROLES = {"predictions": "output0", "prototypes": "output1"}
_OPTIONS = {"score_threshold": 0.001, "iou_threshold": 0.7, "top_k": 100}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Instances:
    """Returns the best `top_k` objects after class-wise non-maximum suppression, best first.

    A pixel in an object's box is of the object if the prototypes there, times the object's coefficients, are above 0
    (a probability above .5).

    Args:
        outputs: Roles `predictions` `(1, 4 + C + K, N)`: centre, width and height in the input's pixels, C class
            probabilities and K coefficients; and `prototypes` `(1, K, h, w)`, which cover the input.
        post: Options `score_threshold`, `iou_threshold`, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    predictions, prototypes = arrays["predictions"], arrays["prototypes"]
    kinds = predictions.shape[1] - 4 - prototypes.shape[1] if predictions.ndim == 3 and prototypes.ndim == 4 else 0
    if kinds < 1 or len(predictions) != 1 or len(prototypes) != 1:
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, 4 + classes + K, N) and prototypes (1, K, h, w), found "
            f"{describe(arrays)}"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(prototypes).all()):
        raise ModelError("computed boxes, scores or masks that are not finite numbers; it is broken")
    rows = predictions[0].T
    classes, scores = rows[:, 4 : 4 + kinds].argmax(axis=1), rows[:, 4 : 4 + kinds].max(axis=1)
    above = np.flatnonzero(scores >= options["score_threshold"])
    centres, halves = rows[above, :2], rows[above, 2:4] / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    kept = suppress_overlaps(boxes, scores[above], classes[above], options["iou_threshold"], int(options["top_k"]))
    chosen = above[kept]
    mixed = np.tensordot(rows[chosen, 4 + kinds :], prototypes[0], axes=1)
    size = (placement.image_width_px, placement.image_height_px)
    sampler = ImageSampler.of(placement, prototypes.shape[3], prototypes.shape[2])
    runs = [_cut(mask, box, sampler, size) for mask, box in zip(mixed, placement.to_image(boxes[kept]), strict=True)]
    return Instances(size, np.clip(scores[chosen], 0, 1), classes[chosen], RunLengths.of(runs))


def _cut(
    mask: NDArray[np.float32], box: NDArray[np.float32], sampler: ImageSampler, size: tuple[int, int]
) -> NDArray[np.int32]:
    """Returns the runs of a mask of the input `(h, w)` within a box of the image of that width and height."""
    left, top, right, bottom = np.ceil(box).astype(np.int64).tolist()
    part = sampler.part(left, top, right, bottom)
    return encode(part.bilinear(mask) > 0, left, top, *size)
