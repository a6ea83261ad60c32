"""MSE: the range of least expected squared error, what is rounded and what is clipped taken together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from edgeq.calibrators.grid import SMALLEST_AMAX, Floats, Grid, Range
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.minmax import minmax

# The search looks at ends down to 1/256 of the extreme, eight an octave, then twice more finely around the best.
_FRACTIONS = 2.0 ** -np.arange(0, 8, 1 / 8)
_REFINEMENTS = 2
_REFINED_POINTS = 15
# Twice around both ends of a tensor with both signs: each end's best place depends on the other through the scale.
_ROUNDS = 2
# Searching in bins four times as wide finds the same ends; they are still many times finer than a level.
_COARSER = 2


def mse(histogram: Histogram) -> Range:
    """Returns the range whose grids have the least expected squared error; never a worse one than min-max."""
    if histogram.amax < SMALLEST_AMAX:
        return Range.unknown()
    extremes = minmax(histogram)
    coarse = histogram.coarsened(histogram.exponent + _COARSER)

    threshold = _best_end(coarse, Grid.symmetric, extremes.threshold)
    low, high = max(extremes.low, -threshold), min(extremes.high, threshold)
    for _ in range(_ROUNDS if low < 0 < high else 1):
        if extremes.high > 0:
            high = _best_end(coarse, partial(Grid.asymmetric, low), extremes.high)
        if extremes.low < 0:
            low = _best_end(coarse, partial(Grid.asymmetric, high=high), extremes.low)
    return _better(histogram, Range(low, high, threshold), extremes)


def expected_squared_error(histogram: Histogram, grid: Grid) -> float:
    """Returns the mean of `(x - quantized x)**2` over the values, each standing at the centre of its bin."""
    filled = histogram.counts > 0
    values, counts = histogram.centers()[filled], histogram.counts[filled]
    return float(np.average((grid.quantize(values) - values) ** 2, weights=counts))


def _best_end(histogram: Histogram, grid_with_end: Callable[[float], Grid], extreme: float) -> float:
    """Returns the end of the grid, between the extreme and zero, of least error."""
    ends: Floats = extreme * _FRACTIONS
    for refinement in range(_REFINEMENTS + 1):
        best = int(np.argmin([expected_squared_error(histogram, grid_with_end(float(end))) for end in ends]))
        if refinement < _REFINEMENTS:
            ends = np.linspace(ends[max(best - 1, 0)], ends[min(best + 1, len(ends) - 1)], _REFINED_POINTS)
    return float(ends[best])


def _better(histogram: Histogram, found: Range, extremes: Range) -> Range:
    """Returns the better of two ranges, form by form, measured in the bins as they are."""
    error = partial(expected_squared_error, histogram)
    ends = min((found, extremes), key=lambda one: error(Grid.asymmetric(one.low, one.high)))
    threshold = min(found.threshold, extremes.threshold, key=lambda end: error(Grid.symmetric(end)))
    return Range(ends.low, ends.high, threshold)
