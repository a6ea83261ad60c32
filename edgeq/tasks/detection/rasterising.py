"""Outlines as antialiased pixels, by integers alone, so that every machine gives the same ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SUBPIXELS = 4  # outlines are rounded to a quarter of a pixel and antialiased on that grid

GridOutline = list[tuple[int, int]]
"""A closed line through points x, y in subpixels."""


def rasterise(outlines: Sequence[GridOutline]) -> tuple[NDArray[np.float32], int, int]:
    """Returns how much of each pixel lies inside an odd number of outlines: `(h, w)`, 0 to 1; and its left and top.

    Every row of subpixels remembers where outlines cross its middle; the parity of the crossings passed is the inside.
    """
    starts = np.array([point for outline in outlines for point in outline])
    ends = np.array([point for outline in outlines for point in (*outline[1:], outline[0])])
    (left, top), (right, bottom) = starts.min(0) // SUBPIXELS, starts.max(0) // SUBPIXELS
    upwards = ends[:, 1] < starts[:, 1]
    (x0, y0), (x1, y1) = np.where(upwards, ends.T, starts.T), np.where(upwards, starts.T, ends.T)
    heights = y1 - y0
    # One entry for each row that a side of an outline crosses.
    side = np.repeat(np.arange(len(heights)), heights)
    step = np.arange(len(side)) - np.repeat(np.cumsum(heights) - heights, heights)
    crossed = x0[side] + ((2 * step + 1) * (x1 - x0)[side] + heights[side]) // (2 * heights[side])
    # By pixel column, subpixel column, subpixel row and pixel row: whatever is added up below lies side by side.
    crossings = np.zeros((right + 1 - left, SUBPIXELS, SUBPIXELS, bottom + 1 - top), np.uint8)
    column, column_part = np.divmod(crossed - left * SUBPIXELS, SUBPIXELS)
    row, row_part = np.divmod(step + y0[side] - top * SUBPIXELS, SUBPIXELS)
    np.bitwise_xor.at(crossings, (column, column_part, row_part, row), 1)
    for number in range(1, SUBPIXELS):
        crossings[:, number] ^= crossings[:, number - 1]
    count = crossings.sum(1, dtype=np.uint8)
    covered = np.where(_parities_before(crossings[:, -1]), SUBPIXELS - count, count).sum(1, dtype=np.uint8)
    shares: NDArray[np.float32] = covered.T.astype(np.float32, order="C") / np.float32(SUBPIXELS**2)
    return shares, int(left), int(top)


def _parities_before(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the parity of all bits before each along the first axis; numpy's `accumulate` takes them one by one."""
    parities, shift = bits.copy(), 1
    while shift < len(parities):
        parities[shift:] ^= parities[:-shift]
        shift *= 2
    return parities ^ bits
