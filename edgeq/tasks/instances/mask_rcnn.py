"""Mask R-CNN as torchvision exports it ("Mask R-CNN", He et al., 2017): boxes, and a small mask in each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.instances.instances import Instances
from edgeq.tasks.maps import ImageSampler
from edgeq.tasks.masks import RunLengths, encode

_ROLES = {"boxes": "boxes", "scores": "scores", "labels": "labels", "masks": "masks"}
_OPTIONS = {"score_threshold": 0.05, "mask_threshold": 0.5, "offset": 1, "top_k": 100}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Instances:
    """Returns the best `top_k` objects above the threshold, best first.

    Args:
        outputs: Roles `boxes` `(N, 4)`, left, top, right and bottom in the input's pixels; `scores` `(N,)` in 0..1;
            `labels` `(N,)`; and `masks` `(N, 1, m, m)`, probabilities within each box, or `(N, 1, height, width)`
            within the whole input. An axis of length 1 may stand before each.
        post: Options `score_threshold`; `mask_threshold`, the probability above which a pixel is of the object;
            `offset`, the label of the first class (1 where 0 is the background); `top_k`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    arrays = pick_outputs(outputs, post, _ROLES)
    boxes, scores, labels = (arrays[name].reshape(-1, *axes) for name, axes in _FORM.items())
    masks = arrays["masks"].reshape(-1, *arrays["masks"].shape[-2:]) if arrays["masks"].ndim >= 3 else arrays["masks"]
    if not len(boxes) == len(scores) == len(labels) == len(masks) or masks.ndim != 3:
        raise ModelError(
            f"decoder {post.decoder}: wanted boxes (N, 4), scores (N,), labels (N,) and masks (N, 1, m, m), found "
            f"{describe(arrays)}"
        )
    if not all(np.isfinite(array).all() for array in (boxes, scores, labels, masks)):
        raise ModelError("computed boxes, scores or masks that are not finite numbers; it is broken")
    classes = np.rint(labels).astype(np.int64) - int(options["offset"])
    order = np.argsort(-scores, kind="stable")
    order = order[(scores[order] > options["score_threshold"]) & (classes[order] >= 0)][: int(options["top_k"])]
    whole = masks.shape[1:] == (placement.input_height_px, placement.input_width_px)
    runs = [
        _spread(masks[index], placement, options["mask_threshold"])
        if whole
        else paste(masks[index], box, placement.image_width_px, placement.image_height_px, options["mask_threshold"])
        for index, box in zip(order.tolist(), placement.to_image(boxes[order]), strict=True)
    ]
    size = (placement.image_width_px, placement.image_height_px)
    return Instances(size, np.clip(scores[order], 0, 1), classes[order], RunLengths.of(runs))


_FORM: dict[str, tuple[int, ...]] = {"boxes": (4,), "scores": (), "labels": ()}


def paste(
    mask: NDArray[np.float32], box: NDArray[np.float32], width: int, height: int, threshold: float
) -> NDArray[np.int32]:
    """Returns the runs of a mask `(m, m)` that fills a box of an image, as torchvision's `paste_masks_in_image` does.

    The mask gets a border of zeros, the box grows by it and is cut to whole pixels, and the mask is stretched to it
    bilinearly.
    """
    side = len(mask)
    grown = (side + 2) / side
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * np.float32(grown)
    left, top, right, bottom = np.concatenate([centre - half, centre + half]).astype(np.int64).tolist()
    columns, rows = max(right - left + 1, 1), max(bottom - top + 1, 1)
    sampler = ImageSampler(
        (np.arange(columns) + 0.5) * ((side + 2) / columns) - 0.5,
        (np.arange(rows) + 0.5) * ((side + 2) / rows) - 0.5,
        side + 2,
        side + 2,
    )
    first_column, first_row = max(left, 0), max(top, 0)
    last_column, last_row = min(right + 1, width), min(bottom + 1, height)
    part = sampler.part(first_column - left, first_row - top, last_column - left, last_row - top)
    inside = part.bilinear(np.pad(mask, 1)) > threshold
    return encode(inside, first_column, first_row, width, height)


def _spread(mask: NDArray[np.float32], placement: Placement, threshold: float) -> NDArray[np.int32]:
    """Returns the runs of a mask of the whole input."""
    sampled = ImageSampler.of(placement, mask.shape[1], mask.shape[0]).bilinear(mask)
    return encode(sampled > threshold, 0, 0, placement.image_width_px, placement.image_height_px)
