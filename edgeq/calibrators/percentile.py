"""Percentile: a fixed share of the values is clipped."""

from __future__ import annotations

import numpy as np

from edgeq.calibrators.grid import SMALLEST_AMAX, Floats, Range
from edgeq.calibrators.histogram import Counts, Histogram
from edgeq.calibrators.minmax import minmax
from edgeq.errors import InputError


def percentile(histogram: Histogram, *, percentile: float = 99.99) -> Range:
    """Returns the range that holds `percentile` per cent of the values, interpolated within a bin.

    The threshold is a percentile of `|x|`. Of a tensor with both signs the asymmetric form cuts half of the rest off
    either end. A percentile in the very bin of zero says that nearly all values are zeros, and would clip all others:
    that side then keeps its extreme.

    Args:
        histogram: The values.
        percentile: Per cent of the values to keep, above 0, at most 100.

    Raises:
        InputError: the percentile is out of range.
    """
    if not 0 < percentile <= 100:
        raise InputError(f"percentile {percentile!r}: wanted a number above 0 and at most 100, for example 99.99")
    if histogram.amax < SMALLEST_AMAX:
        return Range.unknown()
    extremes = minmax(histogram)
    cut = 1 - percentile / 100
    width = histogram.width
    magnitudes = histogram.magnitude_counts()
    edges: Floats = np.arange(len(magnitudes) + 1, dtype=np.float64) * width
    edges[-1] = histogram.amax
    threshold = _quantile(magnitudes, edges[:-1], edges[1:], 1 - cut)
    lower, upper = histogram.edges()
    both_signs = extremes.low < 0 < extremes.high
    share = cut / 2 if both_signs else cut
    low = _quantile(histogram.counts, lower, upper, share) if extremes.low < 0 else 0.0
    high = _quantile(histogram.counts, lower, upper, 1 - share) if extremes.high > 0 else 0.0
    return Range(
        low=min(low, 0.0) if abs(low) >= width else extremes.low,
        high=max(high, 0.0) if abs(high) >= width else extremes.high,
        threshold=threshold if threshold >= width else extremes.threshold,
    )


def _quantile(counts: Counts, lower: Floats, upper: Floats, share: float) -> float:
    """Returns the value below which that share of the counts lies, spread evenly within their bins."""
    rank = share * float(counts.sum())
    cumulative = np.cumsum(counts)
    at = min(int(np.searchsorted(cumulative, rank)), len(counts) - 1)
    inside = (rank - float(cumulative[at] - counts[at])) / max(float(counts[at]), 1.0)
    return float(lower[at] + min(inside, 1.0) * (upper[at] - lower[at]))
