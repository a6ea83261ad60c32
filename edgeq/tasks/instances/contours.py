"""The outline of a mask: the corners of the border between its pixels and the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.polygons import signed_area

Corner = tuple[int, int]


def largest_outline(pixels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns the corners `(n, 2)` of the border of the largest part of a mask `(H, W)`, in pixels, if there are any.

    The border runs between pixels, so that a polygon of it covers exactly those inside; holes are left out. Pixels that
    touch at a corner only are of different parts.
    """
    loops = [np.array(loop, np.float64) for loop in _loops(pixels)]
    if not loops:
        return np.zeros((0, 2))
    # Borders of parts run one way round, and those of holes the other.
    return max(loops, key=lambda loop: float(signed_area(loop)))


def _loops(pixels: NDArray[np.bool_]) -> list[list[Corner]]:
    """Returns the closed borders, each as the corners where it turns; the pixels lie to the right of the way."""
    ways = _ways(pixels)
    loops = []
    while ways:
        start = at = next(iter(ways))
        loop, came = [start], (0, 0)
        first = ways[start][0]
        # A border may come by its start in between, where four of them meet.
        while at != start or came == (0, 0) or (_right(came) != first and _right(came) in ways.get(start, ())):
            choices = ways[at]
            # Where four borders meet, the way that turns right stays with the same pixel.
            way = _right(came) if _right(came) in choices else choices[0]
            choices.remove(way)
            if not choices:
                del ways[at]
            if came not in ((0, 0), way):
                loop.append(at)
            came = way
            at = (at[0] + way[0], at[1] + way[1])
        loops.append(loop)
    return loops


def _right(way: Corner) -> Corner:
    """Returns the way after a turn to the right, with y down."""
    return -way[1], way[0]


def _ways(pixels: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Returns corner -> the ways in which the border goes on from it."""
    padded = np.pad(pixels, 1)
    inner = padded[1:-1, 1:-1]
    ways: dict[Corner, list[Corner]] = {}
    sides = (
        (inner & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inner & ~padded[1:-1, 2:], (1, 0), (0, 1)),
        (inner & ~padded[2:, 1:-1], (1, 1), (-1, 0)),
        (inner & ~padded[1:-1, :-2], (0, 1), (0, -1)),
    )
    for border, (right, down), way in sides:
        for row, column in np.argwhere(border).tolist():
            ways.setdefault((column + right, row + down), []).append(way)
    return ways
