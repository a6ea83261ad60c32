"""The mean of every channel, from sums without rounding.

A float32 is an integer of at most 24 bits times a power of two. Powers are taken in groups of eight (`limbs`): a value
is an integer below `2**31` times the unit of its limb. Up to `2**22` of them add up exactly in a float64, which is what
`np.bincount` sums in, and up to `2**31` in an int64. Python's integers take it from there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibration.statistics.base import require_finite
from edgeq.errors import InputError

_LIMBS = 32
_LIMB_BITS = 8
# A float32 with the exponent field e >= 1 is a multiple of 2**(e - 150); subnormal ones (e = 0) are, too.
_UNIT = 150
_BLOCK = 1 << 16
_MAX_ROWS = 1 << 22
_MAX_PENDING = 1 << 31


class ChannelMeans:
    """The sum and the mean of every channel. Exact: order and batches of the images leave no trace.

    Args:
        axis: The tensor's axis of channels: 1 for `(N, C, H, W)`, -1 for channels that come last.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums: list[int] = []  # in units of 2**-_UNIT
        self._limbs = np.zeros((0, _LIMBS), np.int64)
        self._pending = 0
        self._values = 0

    @property
    def values(self) -> int:
        """How many values each channel had."""
        return self._values

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """The exact mean of every channel, rounded once, float64, `(C,)`.

        Raises:
            InputError: nothing was gathered.
        """
        if not self._values:
            raise InputError("no values were gathered, so there are no means of channels")
        self._fold()
        return np.array([total / (self._values << _UNIT) for total in self._sums])

    def update(self, array: np.ndarray) -> None:
        """Adds an array with the channels on `axis`; values are taken as float32."""
        if not array.size:
            return
        with np.errstate(over="ignore"):
            planes = np.moveaxis(array.astype(np.float32, copy=False), self._axis, 0)
        channels = planes.shape[0]
        planes = planes.reshape(channels, -1)
        self._require_channels(channels)
        rows = planes.shape[1]
        if self._pending + rows > _MAX_PENDING:
            self._fold()
        step = max(1, _BLOCK // rows)
        for channel in range(0, channels, step):
            for row in range(0, rows, _MAX_ROWS):
                block = planes[channel : channel + step, row : row + _MAX_ROWS]
                self._limbs[channel : channel + step] += _limb_sums(block)
        self._pending += rows
        self._values += rows

    def merge(self, other: ChannelMeans) -> None:
        """Adds another's sums."""
        if other._axis != self._axis:
            raise InputError(f"means of channels on axis {other._axis} cannot join those on axis {self._axis}")
        if not other._values:
            return
        other._fold()
        self._require_channels(len(other._sums))
        self._fold()
        self._sums = [total + more for total, more in zip(self._sums, other._sums, strict=True)]
        self._values += other._values

    def to_json(self) -> dict[str, Any]:
        """Returns axis, number of values and exact sums, in units of `2**-150`, as JSON."""
        self._fold()
        return {"axis": self._axis, "values": self._values, "sums": self._sums}

    @classmethod
    def from_json(cls, document: Any) -> ChannelMeans:
        """Returns the statistic that `to_json` wrote."""
        try:
            axis, values, sums = document["axis"], document["values"], document["sums"]
            integers = all(type(number) is int for number in (axis, values, *sums))
        except (KeyError, TypeError) as error:
            raise InputError(f"not the means of channels ({error!r})") from error
        if not integers or values < 0 or bool(values) != bool(sums):
            raise InputError("not the means of channels: wanted whole numbers, and sums if there are values")
        statistic = cls(axis)
        statistic._values, statistic._sums = values, list(sums)
        statistic._limbs = np.zeros((len(sums), _LIMBS), np.int64)
        return statistic

    def _require_channels(self, channels: int) -> None:
        if not self._sums:
            self._sums = [0] * channels
            self._limbs = np.zeros((channels, _LIMBS), np.int64)
        if len(self._sums) != channels:
            raise InputError(f"the tensor has {channels} channels, and had {len(self._sums)} before")

    def _fold(self) -> None:
        """Adds the limbs to the sums."""
        for channel, limbs in enumerate(self._limbs.tolist()):
            self._sums[channel] += sum(limb << (_LIMB_BITS * number) for number, limb in enumerate(limbs))
        self._limbs[:] = 0
        self._pending = 0


_SCALES = np.ldexp(1.0, _UNIT - _LIMB_BITS * np.arange(_LIMBS))


def _limb_sums(block: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Returns the sum of each limb, in its unit, int64, `(channels, _LIMBS)`, for a block `(channels, rows)`."""
    block = np.ascontiguousarray(block)
    exponents = (block.view(np.int32) >> 23) & 255
    if exponents.max() == 255:
        require_finite(block)
    limbs = exponents >> 3
    whole = block * _SCALES[limbs]  # float64, exact
    channels = block.shape[0]
    index = limbs + _LIMBS * np.arange(channels)[:, None]
    sums = np.bincount(index.ravel(), weights=whole.ravel(), minlength=channels * _LIMBS)
    return sums.astype(np.int64).reshape(channels, _LIMBS)
