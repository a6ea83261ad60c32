"""The exact counts of a tensor's values; see `edgeq.calibrators.histogram`."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.calibration.statistics.base import NonFiniteError
from edgeq.calibrators import Histogram, HistogramBuilder


class HistogramStatistic:
    """The histogram of all values. Exact: order and batches of the images leave no trace."""

    def __init__(self) -> None:
        self._builder = HistogramBuilder()
        self._merged = Histogram()

    @property
    def histogram(self) -> Histogram:
        """The counts so far."""
        return self._merged + self._builder.histogram()

    def update(self, array: np.ndarray) -> None:
        """Counts the values of an array of any shape."""
        self._builder.update(array)
        if self._builder.non_finite:
            raise NonFiniteError(self._builder.non_finite)

    def merge(self, other: HistogramStatistic) -> None:
        """Adds another's counts."""
        self._merged = self._merged + other.histogram

    def to_json(self) -> dict[str, Any]:
        """Returns the histogram as JSON."""
        return self.histogram.to_json()

    @classmethod
    def from_json(cls, document: Any) -> HistogramStatistic:
        """Returns the statistic that `to_json` wrote."""
        statistic = cls()
        statistic._merged = Histogram.from_json(document)
        return statistic
