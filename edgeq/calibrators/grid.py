"""`Range`: what a calibration method answers. `Grid`: the numbers of 8 bits, or fewer, that a range becomes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.errors import InputError

Floats = npt.NDArray[np.float64]

# Below it, scales and their products with weight scales would leave the normal float32 numbers.
SMALLEST_AMAX = 2.0**-100

MIN_BITS, MAX_BITS = 2, 8
"""Fewer bits leave a symmetric grid nothing but zero; no engine of ours has more."""


def check_bits(bits: int) -> int:
    """Returns the number of bits of a grid.

    Raises:
        InputError: it is no whole number from 2 to 8.
    """
    if bits not in range(MIN_BITS, MAX_BITS + 1):
        raise InputError(f"{bits!r} bits: wanted a whole number from {MIN_BITS} to {MAX_BITS}")
    return int(bits)


@dataclass(frozen=True)
class Range:
    """The clipping range of a tensor, in both forms that an engine may ask for.

    Attributes:
        low: Lower end of the asymmetric form, at most 0.
        high: Upper end of the asymmetric form, at least 0, above `low`.
        threshold: Largest magnitude of the symmetric form, above 0.
    """

    low: float
    high: float
    threshold: float

    def __post_init__(self) -> None:
        numbers = (self.low, self.high, self.threshold)
        if not (all(map(math.isfinite, numbers)) and self.low <= 0 <= self.high > self.low and self.threshold > 0):
            raise ValueError(
                f"low {self.low!r}, high {self.high!r}, threshold {self.threshold!r} is not a range; wanted finite "
                "low <= 0 <= high, low < high, threshold > 0"
            )

    @classmethod
    def unknown(cls) -> Range:
        """Returns the range of a tensor that showed nothing but zeros: one unit.

        Its scale is of the order of others', so that an int32 bias next to it neither overflows nor vanishes.
        """
        return cls(0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced numbers `(q - zero_point) * scale` for the integers `q` in `qmin..qmax`; zero is one of them.

    Attributes:
        scale: Distance of two neighbours, above 0.
        zero_point: The integer that stands for 0.
        qmin: Smallest integer.
        qmax: Largest integer.
    """

    scale: float
    zero_point: int
    qmin: int
    qmax: int

    @classmethod
    def symmetric(cls, threshold: float, bits: int = 8) -> Grid:
        """Returns the grid of int8 without -128: zero point 0, ends at plus and minus the threshold.

        With fewer bits it is the same of that many, `-(2**(bits - 1) - 1)` to its opposite.
        """
        most = 2 ** (bits - 1) - 1
        return cls(threshold / most, 0, -most, most)

    @classmethod
    def asymmetric(cls, low: float, high: float, bits: int = 8) -> Grid:
        """Returns the grid of uint8: 256 levels over `low..high`, moved by up to half a step so that it holds 0.

        With fewer bits it has `2**bits` levels.
        """
        most = 2**bits - 1
        scale = (high - low) / most
        return cls(scale, round(-low / scale), 0, most)

    def quantize(self, values: Floats) -> Floats:
        """Returns the grid's number for each value, halves rounded to even, outliers clipped; same shape."""
        steps = np.rint(values / self.scale)
        return np.clip(steps, self.qmin - self.zero_point, self.qmax - self.zero_point) * self.scale
