"""Where labels go: beside what they name, inside the picture, and apart from each other where there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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

    def overlap(self, other: Rectangle) -> float:
        """Returns the area that both cover, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


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
    best, least = None, float("inf")
    for left, top in _places(size, at):
        plate = _inside(left, top, size, picture)
        covered = sum(plate.overlap(other) for other in taken)
        if covered < least:
            best, least = plate, covered
        if covered == 0:
            break
    assert best is not None  # noqa: S101 - there are always places
    return best


def _places(size: tuple[float, float], at: Rectangle) -> Iterator[tuple[float, float]]:
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


def _inside(left: float, top: float, size: tuple[float, float], picture: tuple[int, int]) -> Rectangle:
    left = max(0.0, min(left, picture[0] - size[0]))
    top = max(0.0, min(top, picture[1] - size[1]))
    return Rectangle(left, top, left + size[0], top + size[1])
