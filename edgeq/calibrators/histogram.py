"""`Histogram`: exact, mergeable counts of float32 values, and `HistogramBuilder`, which fills one tensor by tensor.

What makes the counts a pure function of the multiset of values, whatever their order, batches and machines:

1. The bin width is a power of two, `2 ** exponent`. Dividing a float32 by it only changes the float's own exponent, so
   the bin index `trunc(value / width)` carries no rounding error.
2. The exponent follows from the largest finite magnitude alone: it is the smallest that keeps every index below
   `BINS_PER_SIDE`.
3. Truncation nests: `trunc(trunc(v / w) / 2) == trunc(v / 2w)`. Growing adds up pairs of bins and so ends with the
   counts that the wider bins would have had from the start.

Truncating towards zero, not flooring, makes the counts of `-x` the mirror image of those of `x` and the counts of `|x|`
exact; bin 0 covers `(-width, width)`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibrators.packing import pack_counts, unpack_counts
from edgeq.errors import InputError

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The largest magnitude falls into the upper half of these bins. The entropy method re-bins to 2048 over [0, amax], and
# its minimum is often a near tie. Measured on samples of eleven shapes: from so many bins it meets the threshold of
# bins over [0, amax] to 0.1 % of amax in seven of eight, from 4096 in two of three. Twice as many bins gain little and
# slow signed tensors down by a fifth.
BINS_PER_SIDE = 1 << 15
# 2**126 is the largest power of two whose inverse is a normal float32. Smaller magnitudes share the lowest bins.
_MIN_EXPONENT = -126
# Values at a time: the float32 and int64 copies stay in the L2 cache while the cost of numpy's calls is spread thin.
_CHUNK = 1 << 16
_MAX_TOTAL = 1 << 61


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of finite float32 values in bins of equal width; immutable, compared by content.

    Bin `m` holds the values with `trunc(value / width) == m`.

    Attributes:
        exponent: Base-2 logarithm of the bin width.
        counts: int64, shape `(last - first + 1,)`, from the minimum's bin `first` to the maximum's bin `last`.
        minimum: Exact smallest finite value; `inf` where there is none.
        maximum: Exact largest finite value; `-inf` where there is none.
        non_finite: How many NaN and infinite values were left out.
    """

    exponent: int = _MIN_EXPONENT
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    minimum: float = math.inf
    maximum: float = -math.inf
    non_finite: int = 0

    def __post_init__(self) -> None:
        self.counts.flags.writeable = False

    @classmethod
    def of(cls, *arrays: npt.ArrayLike) -> Histogram:
        """Returns the histogram of all values of the arrays, as `HistogramBuilder.update` counts them."""
        builder = HistogramBuilder()
        for array in arrays:
            builder.update(array)
        return builder.histogram()

    @property
    def width(self) -> float:
        """Width of a bin."""
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """Number of finite values."""
        return int(self.counts.sum())

    @property
    def amax(self) -> float:
        """Largest finite magnitude; 0 where there is none."""
        return max(abs(self.minimum), abs(self.maximum)) if len(self.counts) else 0.0

    @property
    def indices(self) -> Counts:
        """Index of the bin of each count, int64, shape `(len(counts),)`."""
        first, last = _bin_range(self.minimum, self.maximum, self.exponent)
        return np.arange(first, last + 1)

    def edges(self) -> tuple[Floats, Floats]:
        """Returns the lower and the upper edge of each bin, float64, each of shape `(len(counts),)`.

        The outermost edges are drawn in to the minimum and the maximum.
        """
        indices = self.indices
        lower = np.where(indices > 0, indices, indices - 1) * self.width
        upper = np.where(indices < 0, indices, indices + 1) * self.width
        return np.maximum(lower, self.minimum), np.minimum(upper, self.maximum)

    def centers(self) -> Floats:
        """Returns the value that stands for each bin, float64, shape `(len(counts),)`.

        It is the bin's centre, within minimum and maximum; and 0 for bin 0, because that is where a ReLU's zeros are.
        """
        indices = self.indices
        return np.clip((indices + 0.5 * np.sign(indices)) * self.width, self.minimum, self.maximum)

    def magnitude_counts(self) -> Counts:
        """Returns the counts of `|value|`, int64, shape `(bins,)`: bin `m` holds `trunc(|value| / width) == m`."""
        indices = self.indices
        magnitudes = np.zeros(np.abs(indices).max(initial=-1) + 1, np.int64)
        for side in (indices >= 0, indices < 0):
            magnitudes[np.abs(indices[side])] += self.counts[side]
        return magnitudes

    def coarsened(self, exponent: int) -> Histogram:
        """Returns the same values in bins of width `2**exponent`, which must not be narrower than now."""
        shift = exponent - self.exponent
        if shift < 0:
            raise ValueError(f"bins of width 2**{self.exponent} cannot be made narrower (2**{exponent})")
        if shift == 0 or not len(self.counts):
            return Histogram(exponent, self.counts, self.minimum, self.maximum, self.non_finite)
        # From 63 bits on a shift has no meaning in C; every magnitude is 0 long before.
        shift = min(shift, 62)
        first, last = _bin_range(self.minimum, self.maximum, self.exponent)
        wide = np.arange(_shifted(first, shift), _shifted(last, shift) + 1)
        # Where each wide bin begins. Bin 0 has both sides of zero.
        starts = np.where(wide > 0, wide << shift, ((wide - 1) << shift) + 1)
        counts = np.add.reduceat(self.counts, np.maximum(starts, first) - first)
        return Histogram(exponent, counts, self.minimum, self.maximum, self.non_finite)

    def mapped(self, function: Callable[[Floats], npt.ArrayLike]) -> Histogram:
        """Returns the histogram of what a function makes of the values, each standing where its bin's centre does.

        Minimum and maximum are the function's values of exact ends and of bins' centres.

        Args:
            function: One finite value for each value, float64 of any shape.
        """
        values, counts = self.centers(), self.counts
        values[:1], values[-1:] = self.minimum, self.maximum
        values, counts = values[counts > 0], counts[counts > 0]
        made = np.asarray(function(values), np.float32).astype(np.float64) + 0.0
        minimum, maximum = float(made.min(initial=math.inf)), float(made.max(initial=-math.inf))
        exponent = _exponent(max(-minimum, maximum, 0.0))
        first, last = _bin_range(minimum, maximum, exponent)
        binned = np.zeros(last - first + 1, np.int64)
        np.add.at(binned, np.trunc(np.ldexp(made, -exponent)).astype(np.int64) - first, counts)
        return Histogram(exponent, binned, minimum, maximum, self.non_finite)

    def merge(self, other: Histogram) -> Histogram:
        """Returns the histogram of the values of both: associative, commutative, exact."""
        exponent = max(self.exponent, other.exponent)
        parts = [part.coarsened(exponent) for part in (self, other)]
        minimum, maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        first, last = _bin_range(minimum, maximum, exponent)
        counts = np.zeros(last - first + 1, np.int64)
        for part in parts:
            start = _bin_range(part.minimum, part.maximum, exponent)[0] - first
            counts[start : start + len(part.counts)] += part.counts
        return Histogram(exponent, counts, minimum, maximum, self.non_finite + other.non_finite)

    def __add__(self, other: Histogram) -> Histogram:
        return self.merge(other)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, float, float, int, bytes]:
        return self.exponent, self.minimum, self.maximum, self.non_finite, self.counts.tobytes()

    def to_json(self) -> dict[str, Any]:
        """Returns the histogram, lossless, as a JSON object of one short text and five numbers."""
        empty = not len(self.counts)
        return {
            "minimum": None if empty else self.minimum,
            "maximum": None if empty else self.maximum,
            "values": self.total,
            "non_finite": self.non_finite,
            "exponent": self.exponent,
            "counts": self._packed,
        }

    @functools.cached_property
    def _packed(self) -> str:
        return base64.b64encode(pack_counts(self.counts)).decode("ascii")

    @classmethod
    def from_json(cls, document: Any) -> Histogram:
        """Returns the histogram that `to_json` wrote.

        Raises:
            InputError: the document is not one, or its parts contradict each other.
        """
        try:
            values, non_finite = _natural(document["values"]), _natural(document["non_finite"])
            if values == 0:
                if document != cls(non_finite=non_finite).to_json():
                    raise ValueError("it holds no values but says otherwise")
                return cls(non_finite=non_finite)
            minimum, maximum = _float32(document["minimum"]), _float32(document["maximum"])
            exponent = _exponent(max(-minimum, maximum))
            if document["exponent"] != exponent or minimum > maximum:
                raise ValueError("minimum, maximum and exponent do not fit together")
            first, last = _bin_range(minimum, maximum, exponent)
            counts = unpack_counts(base64.b64decode(document["counts"], validate=True), last - first + 1)
            # The exact sum: int64 could wrap around to the right number.
            if sum(counts.tolist()) != values or not (counts[0] and counts[-1]):
                raise ValueError("the counts do not add up to the values between minimum and maximum")
            return cls(exponent, counts, minimum, maximum, non_finite)
        except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise InputError(f"not a histogram of edgeq ({error})") from error


class HistogramBuilder:
    """Counts the values of one tensor, array after array; for one thread at a time.

    It holds at most `2 * BINS_PER_SIDE` counts, however many values it has seen.
    """

    def __init__(self) -> None:
        self._exponent = _MIN_EXPONENT
        self._minimum = math.inf
        self._maximum = -math.inf
        self._non_finite = 0
        # Index `_CENTER` is bin 0. The side of a ReLU that stays empty never becomes resident memory.
        self._counts = np.zeros(2 * BINS_PER_SIDE - 1, np.int64)

    @property
    def non_finite(self) -> int:
        """How many NaN and infinite values were left out so far."""
        return self._non_finite

    def update(self, array: npt.ArrayLike) -> None:
        """Counts all values of an array of any shape; NaN and infinite values are only counted as such.

        Values are taken as float32: float16 is exact, float64 is rounded and becomes infinite beyond 3.4e38.
        """
        with np.errstate(all="ignore"):
            values = np.asarray(array).astype(np.float32, copy=False).ravel(order="K")
            for start in range(0, values.size, _CHUNK):
                self._count(values[start : start + _CHUNK])

    def histogram(self) -> Histogram:
        """Returns what has been counted so far."""
        first, last = _bin_range(self._minimum, self._maximum, self._exponent)
        counts = self._counts[_CENTER + first : _CENTER + last + 1].copy()
        return Histogram(self._exponent, counts, self._minimum, self._maximum, self._non_finite)

    def _count(self, chunk: npt.NDArray[np.float32]) -> None:
        # NaN and infinities show in minimum or maximum, so that finite data need no pass of their own.
        minimum, maximum = float(chunk.min()), float(chunk.max())
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            finite = chunk[np.isfinite(chunk)]
            self._non_finite += chunk.size - finite.size
            if finite.size:
                self._count(finite)
            return
        self._grow(minimum, maximum)
        scaled, indices = _SCRATCH.scaled[: chunk.size], _SCRATCH.indices[: chunk.size]
        np.multiply(chunk, np.float32(math.ldexp(1.0, -self._exponent)), out=scaled)
        np.copyto(indices, scaled, casting="unsafe")
        first = min(_bin_range(minimum, maximum, self._exponent)[0], 0)
        if first < 0:
            np.subtract(indices, first, out=indices)
        found = np.bincount(indices)
        self._counts[_CENTER + first : _CENTER + first + len(found)] += found

    def _grow(self, minimum: float, maximum: float) -> None:
        """Widens range and bins so that they hold `minimum` and `maximum`."""
        exponent = _exponent(max(-minimum, maximum))
        if exponent > self._exponent:
            narrow = self.histogram()
            self._counts[_CENTER + narrow.indices] = 0
            self._exponent = exponent
            wide = narrow.coarsened(exponent)
            self._counts[_CENTER + wide.indices] = wide.counts
        # Adding 0.0 turns -0.0 into 0.0: which of the two came first must not show.
        self._minimum = min(self._minimum, minimum) + 0.0
        self._maximum = max(self._maximum, maximum) + 0.0


class _Scratch(threading.local):
    """Work arrays, one pair a thread, so that all builders of a thread share what lies in its cache."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.indices = np.empty(_CHUNK, np.intp)


_CENTER = BINS_PER_SIDE - 1
_SCRATCH = _Scratch()


def _exponent(amax: float) -> int:
    """Returns the exponent of the narrowest bins that hold values up to `amax` (rule 2)."""
    if amax == 0:
        return _MIN_EXPONENT  # frexp(0) is 0, like that of 0.75
    return max(math.frexp(amax)[1] - (BINS_PER_SIDE.bit_length() - 1), _MIN_EXPONENT)


def _bin_range(minimum: float, maximum: float, exponent: int) -> tuple[int, int]:
    """Returns the indices of the bins of minimum and maximum; 0 and -1 where there are no values."""
    if minimum > maximum:
        return 0, -1
    return int(math.ldexp(minimum, -exponent)), int(math.ldexp(maximum, -exponent))


def _shifted(index: int, bits: int) -> int:
    """Returns the index of the bin, so many powers of two as wide, that bin `index` is a part of."""
    return -(-index >> bits) if index < 0 else index >> bits


def _natural(number: Any) -> int:
    if type(number) is not int or not 0 <= number < _MAX_TOTAL:
        raise ValueError(f"{number!r} is not a count")
    return number


def _float32(number: Any) -> float:
    if type(number) is not float or not math.isfinite(number):
        raise ValueError(f"{number!r} is not a finite number")
    if abs(number) > float(np.finfo(np.float32).max) or float(np.float32(number)) != number:
        raise ValueError(f"{number!r} is not a float32")
    return number + 0.0
