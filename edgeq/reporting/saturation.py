"""The calibrated range of every tensor beside what was counted, and how much of it the range cuts off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.calibrators.grid import Range
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.ranges import Ranges

_BARS = 48


@dataclass(frozen=True)
class TensorRange:
    """One tensor.

    Attributes:
        name: Its name in the float graph.
        low: Lower end of the range.
        high: Upper end.
        minimum: Smallest value that was counted; `None` without any.
        maximum: Largest value.
        values: How many were counted.
        cut_off: Share of them outside the range, 0..1; to the width of a bin.
        bars: Shares of the values between minimum and maximum, in 48 bars of equal width.
    """

    name: str
    low: float
    high: float
    minimum: float | None
    maximum: float | None
    values: int
    cut_off: float | None
    bars: tuple[float, ...]


def tensor_ranges(ranges: Ranges) -> tuple[TensorRange, ...]:
    """Returns all tensors, those that lose most values first."""
    found = [_tensor(name, ranges.tensors[name], ranges.histograms[name]) for name in ranges.tensors]
    return tuple(sorted(found, key=lambda each: (-(each.cut_off or 0.0), each.name)))


def _tensor(name: str, interval: Range, histogram: Histogram) -> TensorRange:
    low, high = interval.low, interval.high
    if not histogram.total:
        return TensorRange(name, low, high, None, None, 0, None, ())
    centers = histogram.centers()
    outside = histogram.counts[(centers < low) | (centers > high)].sum()
    span = histogram.maximum - histogram.minimum
    bars, _ = np.histogram(
        centers, bins=_BARS, range=(histogram.minimum, histogram.maximum if span else histogram.minimum + 1),
        weights=histogram.counts,
    )  # fmt: skip
    return TensorRange(
        name, low, high, histogram.minimum, histogram.maximum, histogram.total,
        float(outside / histogram.total), tuple((bars / histogram.total).tolist()),
    )  # fmt: skip
