"""The least and the greatest value of every channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.calibration.statistics.base import require_finite
from edgeq.errors import InputError
from edgeq.exporting.passes.rescale import ChannelExtremes


class ChannelExtremesStatistic:
    """The extremes of every channel. Exact: order and batches of the images leave no trace.

    Args:
        axis: The tensor's axis of channels: 1 for `(N, C, H, W)`, -1 for channels that come last.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._extremes: ChannelExtremes | None = None

    @property
    def seen(self) -> bool:
        """Whether any values were gathered."""
        return self._extremes is not None

    @property
    def extremes(self) -> ChannelExtremes:
        """Minimum and maximum, float32, each `(C,)`.

        Raises:
            InputError: nothing was gathered.
        """
        if self._extremes is None:
            raise InputError("no values were gathered, so there are no extremes of channels")
        return self._extremes

    def update(self, array: np.ndarray) -> None:
        """Takes the extremes of an array with the channels on `axis`."""
        if not array.size:
            return
        others = tuple(axis for axis in range(array.ndim) if axis != self._axis % array.ndim)
        # Adding 0.0 turns -0.0 into 0.0: which of the two came first must not show.
        extremes = ChannelExtremes(array.min(axis=others) + np.float32(0), array.max(axis=others) + np.float32(0))
        if not all(np.isfinite(ends).all() for ends in extremes):
            require_finite(array)
        self._take(extremes)

    def merge(self, other: ChannelExtremesStatistic) -> None:
        """Takes another's extremes."""
        if other._axis != self._axis:
            raise InputError(f"extremes of channels on axis {other._axis} cannot join those on axis {self._axis}")
        if other._extremes is not None:
            self._take(other._extremes)

    def to_json(self) -> dict[str, Any]:
        """Returns axis and extremes as JSON."""
        ends = self._extremes or ((), ())
        return {
            "axis": self._axis,
            "minimum": [float(low) for low in ends[0]],
            "maximum": [float(top) for top in ends[1]],
        }

    @classmethod
    def from_json(cls, document: Any) -> ChannelExtremesStatistic:
        """Returns the statistic that `to_json` wrote."""
        try:
            statistic = cls(int(document["axis"]))
            extremes = ChannelExtremes(*(np.array(document[key], np.float32) for key in ("minimum", "maximum")))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"not the extremes of channels ({error!r})") from error
        low, high = extremes
        if low.ndim != 1 or low.shape != high.shape or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise InputError("not the extremes of channels: wanted two lists of finite numbers, minimum <= maximum")
        if low.size:
            statistic._extremes = extremes
        return statistic

    def _take(self, extremes: ChannelExtremes) -> None:
        if self._extremes is None:
            self._extremes = extremes
            return
        (low, high), (found_low, found_high) = self._extremes, extremes
        if found_low.shape != low.shape:
            raise InputError(f"the tensor has {found_low.size} channels, and had {low.size} before")
        self._extremes = ChannelExtremes(np.minimum(low, found_low), np.maximum(high, found_high))
