"""How much boxes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns intersection over union `(len(first), len(second))` of boxes `(N, 4)`: left, top, right, bottom."""
    corners = np.maximum(first[:, None, :2], second[:, :2]), np.minimum(first[:, None, 2:], second[:, 2:])
    both = np.clip(corners[1] - corners[0], 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (first, second)]
    union: NDArray[np.float64] = areas[0][:, None] + areas[1] - both
    overlap: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlap
