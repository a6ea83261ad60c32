"""`mse` and `lp`: the range of least expected error, what is rounded and what is clipped taken together.

`mse` weighs errors by their square. `lp` takes a higher power (the Lp norm of "Loss Aware Post-Training Quantization",
Nahshan et al., 2019): what is clipped counts more, because a detector's peaks, the few largest values of a map, are
what its detections are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from edgeq.calibrators.grid import SMALLEST_AMAX, Floats, Grid, Range, check_bits
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.minmax import minmax
from edgeq.errors import InputError

# The search looks at ends down to 1/256 of the extreme, eight an octave, then twice more finely around the best.
_FRACTIONS = 2.0 ** -np.arange(0, 8, 1 / 8)
_REFINEMENTS = 2
_REFINED_POINTS = 15
# Twice around both ends of a tensor with both signs: each end's best place depends on the other through the scale.
_ROUNDS = 2
# Searching in bins four times as wide finds the same ends; they are still many times finer than a level.
_COARSER = 2
# Most of the search's grids are too narrow. From so many times the least error on, clipping alone may cost more than
# the least error, on this grid and on all narrower ones. The second number leaves room for float rounding.
_MUCH, _SURELY = 2.0, 1 + 1e-6


def mse(histogram: Histogram, *, bits: int = 8) -> Range:
    """Returns the range whose grids of so many bits have the least expected squared error; never worse than min-max.

    Raises:
        InputError: the bits are not 2 to 8.
    """
    return _least_error(histogram, 2.0, bits)


def lp(histogram: Histogram, *, power: float = 4.0, bits: int = 8) -> Range:
    """Returns the range whose grids have the least expected `|error| ** power`; never a worse one than min-max.

    Args:
        histogram: The tensor's values.
        power: From 1 up; 2 is `mse`, and the higher it is the closer the range comes to min-max.
        bits: Bits of the grids.

    Raises:
        InputError: the power is below 1 or not finite, or the bits are not 2 to 8.
    """
    if not 1 <= power < math.inf:
        raise InputError(f"power {power}: method lp needs a number from 1 up")
    return _least_error(histogram, power, bits)


def expected_error(histogram: Histogram, grid: Grid, power: float) -> float:
    """Returns the mean of `|x - quantized x| ** power` over the values, each standing at the centre of its bin."""
    return _Errors(histogram, power).of(grid)


class _Errors:
    """Expected errors of one tensor on many grids; what they share is computed once.

    Args:
        histogram: The tensor's values.
        power: Of the errors.
    """

    def __init__(self, histogram: Histogram, power: float) -> None:
        filled = histogram.counts > 0
        self._values, self._weights = histogram.centers()[filled], histogram.counts[filled].astype(np.float64)
        self._total = self._weights.sum()
        self._power = power
        # Every grid's errors are computed here: a new array for each step of each grid would cost as much again.
        self._errors = np.empty_like(self._values)

    def of(self, grid: Grid) -> float:
        """Returns the error on a grid."""
        differences = grid.quantize(self._values, self._errors)
        differences -= self._values
        return self._mean(differences)

    def least(self, grids: Iterable[Grid]) -> int:
        """Returns the index of the grid of least error, of grids each over a range within that of the one before."""
        best, least = 0, math.inf
        for index, grid in enumerate(grids):
            error = self.of(grid)
            if error < least:
                best, least = index, error
            elif error > _MUCH * least and self._clipped(grid) > _SURELY * least:
                break
        return best

    def _clipped(self, grid: Grid) -> float:
        """Returns what clipping alone costs at least on every grid over a range within that of this one.

        A grid's ends are up to half a step away from those of its range, and a narrower range has smaller steps.
        """
        low, high = grid.ends
        beyond = np.subtract(self._values, high + grid.scale, out=self._errors)
        np.maximum(beyond, (low - grid.scale) - self._values, out=beyond)
        return self._mean(np.maximum(beyond, 0.0, out=beyond))

    def _mean(self, differences: Floats) -> float:
        # numpy squares fast, and is slow at any other power: for 2 and 4 all that is left to do is a square or nothing.
        differences **= 2
        if self._power != 2:
            differences **= self._power / 2
        differences *= self._weights
        return float(differences.sum() / self._total)


def _least_error(histogram: Histogram, power: float, bits: int) -> Range:
    bits = check_bits(bits)
    if histogram.amax < SMALLEST_AMAX:
        return Range.unknown()
    extremes = minmax(histogram)
    coarse = _Errors(histogram.coarsened(histogram.exponent + _COARSER), power)
    symmetric, asymmetric = partial(Grid.symmetric, bits=bits), partial(Grid.asymmetric, bits=bits)
    threshold = _best_end(coarse, symmetric, extremes.threshold)
    low, high = max(extremes.low, -threshold), min(extremes.high, threshold)
    for _ in range(_ROUNDS if low < 0 < high else 1):
        if extremes.high > 0:
            high = _best_end(coarse, partial(asymmetric, low), extremes.high)
        if extremes.low < 0:
            low = _best_end(coarse, partial(asymmetric, high=high), extremes.low)
    found = Range(low, high, threshold)
    # The better one form by form, measured in the bins as they are.
    exact = _Errors(histogram, power)
    ends = min((found, extremes), key=lambda one: exact.of(asymmetric(one.low, one.high)))
    threshold = min(found.threshold, extremes.threshold, key=lambda end: exact.of(symmetric(end)))
    return Range(ends.low, ends.high, threshold)


def _best_end(errors: _Errors, grid_with_end: Callable[[float], Grid], extreme: float) -> float:
    """Returns the end of the grid, between the extreme and zero, of least error."""
    ends: Floats = extreme * _FRACTIONS
    for refinement in range(_REFINEMENTS + 1):
        best = errors.least(grid_with_end(float(end)) for end in ends)
        if refinement < _REFINEMENTS:
            ends = np.linspace(ends[max(best - 1, 0)], ends[min(best + 1, len(ends) - 1)], _REFINED_POINTS)
    return float(ends[best])
