"""Min-max: nothing is clipped."""

from __future__ import annotations

from edgeq.calibrators.grid import SMALLEST_AMAX, Range
from edgeq.calibrators.histogram import Histogram


def minmax(histogram: Histogram) -> Range:
    """Returns the exact extremes, widened to hold zero."""
    if histogram.amax < SMALLEST_AMAX:
        return Range.unknown()
    return Range(min(histogram.minimum, 0.0), max(histogram.maximum, 0.0), histogram.amax)
