"""YOLO with masks: each object mixes prototypes ("YOLACT", Bolya et al., 2019), as in the form that YOLOv8 exports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.end2end import END_TO_END, chosen_rows
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
            probabilities and K coefficients; and `prototypes` `(1, K, h, w)`, which cover the input. Of an end-to-end
            model `predictions` `(1, N, 6 + K)`: left, top, right, bottom, score, class and coefficients.
        post: Options `score_threshold`, `iou_threshold`, `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    predictions, prototypes = arrays["predictions"], arrays["prototypes"]
    masks = prototypes.shape[1] if prototypes.ndim == 4 else 0
    kinds = predictions.shape[1] - 4 - masks if predictions.ndim == 3 and masks else 0
    is_chosen = predictions.ndim == 3 and masks > 0 and predictions.shape[2] == END_TO_END + masks
    if (kinds < 1 and not is_chosen) or len(predictions) != 1 or len(prototypes) != 1:
        raise ModelError(
            f"decoder {post.decoder}: wanted predictions (1, 4 + classes + K, N) and prototypes (1, K, h, w), found "
            f"{describe(arrays)}"
        )
    if not (np.isfinite(predictions).all() and np.isfinite(prototypes).all()):
        raise ModelError("computed boxes, scores or masks that are not finite numbers; it is broken")
    if is_chosen:
        boxes, scores, classes, coefficients = chosen_rows(predictions[0], options)
    else:
        boxes, scores, classes, coefficients = _suppressed(predictions[0].T, kinds, options)
    mixed = np.tensordot(coefficients, prototypes[0], axes=1)
    size = (placement.image_width_px, placement.image_height_px)
    sampler = ImageSampler.of(placement, prototypes.shape[3], prototypes.shape[2])
    runs = [_cut(mask, box, sampler, size) for mask, box in zip(mixed, placement.to_image(boxes), strict=True)]
    return Instances(size, np.clip(scores, 0, 1), classes, RunLengths.of(runs))


def _suppressed(
    rows: NDArray[np.float32], kinds: int, options: Mapping[str, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Returns boxes, scores, classes and coefficients of the objects that non-maximum suppression leaves."""
    classes, scores = rows[:, 4 : 4 + kinds].argmax(axis=1), rows[:, 4 : 4 + kinds].max(axis=1)
    above = np.flatnonzero(scores >= options["score_threshold"])
    centres, halves = rows[above, :2], rows[above, 2:4] / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    kept = suppress_overlaps(boxes, scores[above], classes[above], options["iou_threshold"], int(options["top_k"]))
    chosen = above[kept]
    return boxes[kept], scores[chosen], classes[chosen], rows[chosen, 4 + kinds :]


def _cut(
    mask: NDArray[np.float32], box: NDArray[np.float32], sampler: ImageSampler, size: tuple[int, int]
) -> NDArray[np.int32]:
    """Returns the runs of a mask of the input `(h, w)` within a box of the image of that width and height."""
    left, top, right, bottom = np.ceil(box).astype(np.int64).tolist()
    part = sampler.part(left, top, right, bottom)
    return encode(part.bilinear(mask) > 0, left, top, *size)
