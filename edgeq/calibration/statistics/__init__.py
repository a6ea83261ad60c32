"""Statistics: what calibration can gather about a tensor. One class per file, and one line in `STATISTICS`.

Third parties register through the entry point group `edgeq.statistics`. All statistics of a run are gathered in one
pass over the images (`edgeq.calibration.collector.Collector`); each states in its own docstring what order and batches
of the images may change, which for most of them is nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from edgeq.calibration.statistics.base import NonFiniteError, Statistic
from edgeq.registry import load_entry

__all__ = ["STATISTICS", "NonFiniteError", "Request", "Statistic", "statistic_class"]

STATISTICS: dict[str, str] = {
    "channel_extremes": "edgeq.calibration.statistics.channel_extremes:ChannelExtremesStatistic",
    "channel_means": "edgeq.calibration.statistics.channel_means:ChannelMeans",
    "histogram": "edgeq.calibration.statistics.histogram:HistogramStatistic",
    "second_moments": "edgeq.calibration.statistics.second_moments:SecondMoments",
}


@dataclass(frozen=True)
class Request:
    """A statistic that is wanted of a tensor.

    Attributes:
        tensor: Name of the tensor.
        statistic: A name of `STATISTICS`.
        options: The arguments of its class, by name.
    """

    tensor: str
    statistic: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, tensor: str, statistic: str, **options: Any) -> Request:
        """Returns the request for a statistic with these options, which are numbers or tuples of numbers."""
        return cls(tensor, statistic, tuple(sorted(options.items())))

    def start(self) -> Statistic:
        """Returns the statistic, with nothing gathered.

        Raises:
            InputError: no statistic of that name is registered.
        """
        return statistic_class(self.statistic)(**dict(self.options))


def statistic_class(name: str) -> type[Statistic]:
    """Returns the class of a statistic.

    Raises:
        InputError: none of that name is registered.
    """
    return cast("type[Statistic]", load_entry("statistic", STATISTICS, name))
