"""Orders in which graphs give the four numbers of a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.tasks.detection.decoders.candidates import FloatArray, corners

_CORNER_ORDERS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "xyxy": lambda boxes: boxes,
    "yxyx": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "xywh": lambda boxes: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    "cxcywh": lambda boxes: corners(boxes[:, :2], boxes[:, 2:]),
}


def to_corners(boxes: FloatArray, order: str, post: Postprocessing) -> FloatArray:
    """Returns boxes `(N, 4)` as left, top, right, bottom, also where a box names its corners the other way round.

    Args:
        boxes: `(N, 4)`.
        order: `xyxy`, `yxyx`, `xywh` from the left top corner, or `cxcywh` from the centre.
        post: For the error.

    Raises:
        InputError: there is no such order.
    """
    if order not in _CORNER_ORDERS:
        raise InputError(f"decoder {post.decoder}: option 'order' is {order!r}; known: {', '.join(_CORNER_ORDERS)}")
    found = _CORNER_ORDERS[order](boxes.astype(np.float64))
    return np.concatenate([np.minimum(found[:, :2], found[:, 2:]), np.maximum(found[:, :2], found[:, 2:])], axis=1)
