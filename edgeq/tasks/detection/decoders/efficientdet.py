"""EfficientDet: anchors of three scales and ratios on the levels 3 to 7 ("EfficientDet", Tan et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.anchors import Sizes, grid_anchors
from edgeq.tasks.detection.decoders.roles import pick_options
from edgeq.tasks.detection.decoders.ssd import HEAD_OPTIONS, decode_head, read_head
from edgeq.tasks.detection.detections import Detections

_OPTIONS = {
    **HEAD_OPTIONS,
    "iou_threshold": 0.5,
    "top_k": 100,
    "candidates": 5000,
    "activation": "sigmoid",
    "background": -1,
    "variances": (1, 1, 1, 1),
    "order": "yxhw",
    "levels": (3, 4, 5, 6, 7),
    "anchor_scale": 4,
    "scales": 3,
    "ratios": ((1, 1), (1.4, 0.7), (0.7, 1.4)),
}


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> Detections:
    """Returns the best boxes after class-wise non-maximum suppression, best first.

    An anchor of level `l` is `anchor_scale * 2^l` pixels wide and high, times `2^(s / scales)`, times its ratio.

    Args:
        outputs: Roles `boxes` (`(1, N, 4)`) and `scores` (`(1, N, classes)`), both for all levels one after the other,
            row by row, cell by cell, anchor by anchor.
        post: Options `levels`, `anchor_scale`, `scales`, and `ratios`, factors on width and height; and those of the
            decoder `ssd` but for its anchors, with the values that this family has: logits before the sigmoid, no
            background, no variances, `order` `yxhw`.
        placement: Where the image lies in the input.

    Raises:
        ModelError: an output is missing or has another shape, or there are not as many anchors as boxes.
        InputError: an option has a value that it cannot have.
    """
    options = pick_options(post, _OPTIONS)
    codes, scores = read_head(outputs, post)
    ratios, scales = options["ratios"], int(options["scales"])
    if scales < 1 or any(not isinstance(ratio, tuple) or len(ratio) != 2 for ratio in ratios):
        raise InputError(
            f"decoder {post.decoder}: scales is {scales} and ratios {ratios}; wanted 1 or more, and [width, height]"
        )
    strides = tuple(2.0**level for level in options["levels"])
    sizes = _sizes(strides, options["anchor_scale"], scales, ratios)
    anchors = grid_anchors(placement.input_height_px, placement.input_width_px, strides, sizes, even=False)
    return decode_head(codes, scores, anchors, options, placement, post)


def _sizes(
    strides: tuple[float, ...], anchor_scale: float, scales: int, ratios: tuple[tuple[float, float], ...]
) -> Sizes:
    octaves = [anchor_scale * 2 ** (scale / scales) for scale in range(scales)]
    return tuple(
        tuple((stride * octave * width, stride * octave * height) for octave in octaves for width, height in ratios)
        for stride in strides
    )
