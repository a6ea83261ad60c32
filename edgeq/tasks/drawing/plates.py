"""Where labels go: next to what they name, inside the picture, and apart from each other if there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Positions along a side that are tried between its ends.
_STEPS = 4
# Lines below a box's upper edge that are tried when all places around it are taken.
_ROWS = 8


class Rectangle(NamedTuple):
    """An upright rectangle, in pixels of the picture."""

    left: float
    top: float
    right: float
    bottom: float


def place(
    size: tuple[float, float], at: Rectangle, taken: Sequence[Rectangle], picture: tuple[int, int]
) -> Rectangle:  # fmt: skip
    """Returns where the plate of a label goes: the first place around its box that is free, or the least covered one.

    Args:
        size: Width and height of the plate.
        at: The box that it names.
        taken: Plates that are placed already.
        picture: Width and height of the picture; a plate that fits stays inside.
    """
    room = np.maximum(np.subtract(picture, size), 0)
    corners = np.clip(list(_places(size, at)), 0, room)
    plates = np.concatenate([corners, corners + size], axis=1)
    # Of equal ones the first.
    return Rectangle(*plates[_covered(plates, taken).argmin()].tolist())


def _covered(plates: NDArray[np.float64], taken: Sequence[Rectangle]) -> NDArray[np.float64]:
    """Returns how much of each plate `(N, 4)` is taken, in square pixels."""
    others = np.array(taken, np.float64).reshape(-1, 4)
    low = np.maximum(plates[:, None, :2], others[:, :2])
    high = np.minimum(plates[:, None, 2:], others[:, 2:])
    covered: NDArray[np.float64] = np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
    return covered


def _places(size: tuple[float, float], at: Rectangle) -> Iterator[tuple[float, float]]:
    """Yields left and top of the plate in every place that is tried, the best one first."""
    width, height = size
    free = at.right - at.left - width
    lefts = [at.left + free * step / _STEPS for step in range(_STEPS + 1)] if free > 0 else [at.left, at.left + free]
    for top in (at.top - height, at.top, at.bottom, at.bottom - height):
        for left in lefts:
            yield left, top
    for row in range(_ROWS):
        for left in (at.right, at.left - width, at.left):
            yield left, at.top + row * height
    for row in range(2, _ROWS):
        yield at.left, at.top - row * height
