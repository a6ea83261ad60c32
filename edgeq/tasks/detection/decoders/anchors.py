"""Anchors: boxes of set sizes around every cell of a grid, and boxes told as shifts and logarithmic scales of them.

The code is that of "Faster R-CNN" (Ren et al., 2015), which SSD, RetinaNet, EfficientDet and RetinaFace share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import FloatArray, corners, grid

ORDERS: Mapping[str, Sequence[int]] = {"xywh": (0, 1, 2, 3), "yxhw": (1, 0, 3, 2)}
"""Orders of the four numbers of a box -> where x, y, width and height are."""

Sizes = tuple[tuple[tuple[float, float], ...], ...]
"""For each stride the widths and heights of the anchors of a cell, in pixels."""

_LARGEST_LOG = 16.0  # no box is e^16 times its anchor; a number that says so is noise, and must not overflow


@lru_cache(maxsize=16)
def grid_anchors(
    height_px: int, width_px: int, strides: tuple[float, ...], sizes: Sizes, even: bool
) -> NDArray[np.float64]:
    """Returns anchors `(N, 4)`: centre x, centre y, width and height in pixels.

    They come stride by stride, row by row, cell by cell, then in the order of `sizes`.

    Args:
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        strides: Pixels from cell to cell. A side that is no multiple has one more cell.
        sizes: One entry per stride.
        even: Whether cells that are cut by the input's edge share its side evenly with the others, as TensorFlow's
            detectors have it; otherwise each cell has the full stride.
    """
    anchors = []
    for stride, each in zip(strides, sizes, strict=True):
        cells, _ = grid(height_px, width_px, (stride,))
        step = np.array([width_px, height_px]) / (cells.max(axis=0) + 1) if even else stride
        centres = np.repeat((cells + 0.5) * step, len(each), axis=0)
        anchors.append(np.concatenate([centres, np.tile(np.array(each, np.float64), (len(cells), 1))], axis=1))
    return np.concatenate(anchors)


def decode_anchors(codes: FloatArray, anchors: FloatArray, variances: Sequence[float], order: str) -> FloatArray:
    """Returns boxes `(N, 4)`, left, top, right, bottom, in the unit of the anchors.

    Args:
        codes: `(N, 4)`: shifts of the centre in anchors' sides, and logarithms of sizes in anchors' sizes.
        anchors: `(N, 4)`: centre x, centre y, width, height.
        variances: What each of the four is multiplied by, in the order x, y, width, height.
        order: Of the codes, a name of `ORDERS`.
    """
    scaled = codes[:, ORDERS[order]].astype(np.float64) * variances
    centres = anchors[:, :2] + scaled[:, :2] * anchors[:, 2:]
    return corners(centres, np.exp(np.minimum(scaled[:, 2:], _LARGEST_LOG)) * anchors[:, 2:])


def require_order(order: str, post: Postprocessing) -> None:
    """Raises `InputError` where there is no such order."""
    if order not in ORDERS:
        raise InputError(f"decoder {post.decoder}: option 'order' is {order!r}; known: {', '.join(ORDERS)}")


def require_anchors(count: int, found: int, placement: Placement, post: Postprocessing) -> None:
    """Raises `ModelError` where a model has another number of boxes than there are anchors."""
    if count != found:
        raise ModelError(
            f"decoder {post.decoder}: has {count} anchors for an input of {placement.input_width_px}x"
            f"{placement.input_height_px}, but the model gives {found} boxes; the preset's options say which anchors a "
            "model was trained with"
        )
