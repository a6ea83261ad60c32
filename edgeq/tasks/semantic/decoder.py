"""From scores of classes, or classes, on a grid over the input to the class of every pixel of the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.maps import ImageSampler
from edgeq.tasks.semantic.class_map import MAX_CLASSES, ClassMap

_ROLES = {"scores": "scores"}
_OPTIONS = {"threshold": 0.5}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> ClassMap:
    """Returns the class of every pixel of the image.

    Scores are sampled bilinearly at the pixels of the image before the best class is chosen, as torchvision,
    MMSegmentation and transformers do ("Fully Convolutional Networks", Long et al., 2015). Of equal scores the lower
    class wins.

    Args:
        outputs: Role `scores`: `(1, C, h, w)`, a score per class (logits or probabilities); `(1, 1, h, w)`, the score
            of class 1 against class 0; or integers `(1, h, w)` or `(1, 1, h, w)`, class indices.
        post: Option `threshold`, from which a single score is class 1 (0 for logits).
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, not finite, or of more than 255 classes.
    """
    options = pick_options(post, _OPTIONS)
    scores = pick_outputs(outputs, post, _ROLES)["scores"]
    grid = scores[None] if scores.ndim == 3 else scores
    if grid.ndim != 4 or len(grid) != 1 or not grid.size or grid.shape[1] > MAX_CLASSES:
        raise ModelError(
            f"decoder {post.decoder}: wanted scores (1, C, h, w) of at most {MAX_CLASSES} classes, or class indices "
            f"(1, h, w), found {describe(outputs)}"
        )
    if not np.isfinite(grid).all():
        raise ModelError("computed scores that are not finite numbers; it is broken")
    sampler = ImageSampler.of(placement, grid.shape[3], grid.shape[2])
    # Scores of one class without an axis for it are class indices in floating point.
    if scores.ndim == 3 or _are_integers(outputs, post):
        return ClassMap.of(_checked_indices(sampler.nearest(grid[0, 0]), post))
    if grid.shape[1] == 1:
        return ClassMap.of((sampler.bilinear(grid[0, 0]) >= options["threshold"]).astype(np.uint8))
    return ClassMap.of(_best_classes(grid[0], sampler))


def _are_integers(outputs: Mapping[str, np.ndarray], post: Postprocessing) -> bool:
    name = next(iter(outputs)) if len(outputs) == 1 else post.outputs.get("scores", "scores")
    return outputs[name].dtype.kind in "iub"


def _checked_indices(pixels: NDArray[np.generic], post: Postprocessing) -> NDArray[np.uint8]:
    indices = pixels.astype(np.uint8)
    if not np.array_equal(indices, pixels):
        raise ModelError(f"decoder {post.decoder}: wanted class indices from 0 to {MAX_CLASSES - 1}")
    return indices


def _best_classes(scores: NDArray[np.float32], sampler: ImageSampler) -> NDArray[np.uint8]:
    """Returns the best class of each pixel; one class at a time, so that memory does not grow with their number."""
    best = sampler.bilinear(scores[0])
    classes = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(scores[1:], start=1):
        sampled = sampler.bilinear(plane)
        np.putmask(classes, sampled > best, index)
        np.maximum(best, sampled, out=best)
    return classes
