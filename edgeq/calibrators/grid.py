"""`Range`: what a calibration method answers. `Grid`: the numbers of 8 bits, or fewer, that a range becomes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from edgeq.errors import InputError
from edgeq.schemes import FLOAT8_MAX, Scheme

Floats = npt.NDArray[np.float64]

# Below it, scales and their products with weight scales would leave the normal float32 numbers.
SMALLEST_AMAX = 2.0**-100

_SMALLEST_STEP = 1e-30
"""A smaller step is that of a tensor that was zero on all images; its grid gets the step 1."""

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

    @property
    def width(self) -> float:
        """The largest magnitude of the asymmetric form."""
        return max(self.high, -self.low)

    @classmethod
    def unknown(cls) -> Range:
        """Returns the range of a tensor that showed nothing but zeros: one unit.

        Its scale is of the order of others', so that an int32 bias next to it neither overflows nor vanishes.
        """
        return cls(0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """Numbers `(q - zero_point) * scale` for the integers `q` in `qmin..qmax`, or for floats `q` of 8 bits.

    Zero is one of them.

    The only place where a range becomes a step.

    Attributes:
        scale: Distance of two neighbours, above 0; of floats what they are multiplied with.
        zero_point: The integer that stands for 0.
        scheme: The integers or floats.
    """

    scale: float
    zero_point: int
    scheme: Scheme

    @classmethod
    def symmetric(cls, threshold: float, bits: int = 8) -> Grid:
        """Returns the grid of int8 without -128: zero point 0, ends at plus and minus the threshold.

        With other bits it is the same of that many, `-(2**(bits - 1) - 1)` to its opposite.
        """
        return cls(threshold / _signed(bits).qmax, 0, _signed(bits))

    @classmethod
    def asymmetric(cls, low: float, high: float, bits: int = 8) -> Grid:
        """Returns the grid of uint8: 256 levels over `low..high`, moved by up to half a step so that it holds 0.

        With other bits it has `2**bits` levels.
        """
        scale = (high - low) / _unsigned(bits).qmax
        return cls(scale, round(-low / scale), _unsigned(bits))

    @classmethod
    def of(cls, low: float, high: float, threshold: float, scheme: Scheme) -> Grid:
        """Returns the grid of a scheme over a range, which may be empty: a tensor of zeros needs a valid step too.

        Unsigned integers of a symmetric scheme have their zero in the middle, but for a range without negative numbers,
        which uses all of them.

        Args:
            low: Lower end of the asymmetric form, at most 0.
            high: Upper end of the asymmetric form, at least 0.
            threshold: Largest magnitude of the symmetric form.
            scheme: Integers, or floats of 8 bits, of one scale for the whole tensor.
        """
        if scheme.is_float8:
            return cls(_valid(threshold / FLOAT8_MAX), 0, scheme)
        if scheme.symmetric and (scheme.signed or low < 0):
            middle = 0 if scheme.signed else 2 ** (scheme.bits - 1)
            return cls(_valid(threshold / (2 ** (scheme.bits - 1) - 1)), middle, scheme)
        levels = 2**scheme.bits - 1
        step = _valid((high - low) / levels)
        zero = min(levels, max(0, round(-low / step)))
        return cls(step, zero - 2 ** (scheme.bits - 1) if scheme.signed else zero, scheme)

    @property
    def qmin(self) -> int:
        """Smallest integer."""
        return self.scheme.qmin

    @property
    def qmax(self) -> int:
        """Largest integer."""
        return self.scheme.qmax

    @property
    def dtype(self) -> str:
        """Numpy's name of the type that the integers are stored in."""
        return self.scheme.dtype

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest number."""
        return (self.qmin - self.zero_point) * self.scale, (self.qmax - self.zero_point) * self.scale

    def quantize(self, values: Floats, out: Floats | None = None) -> Floats:
        """Returns the grid's number for each value, halves rounded to even, outliers clipped; same shape.

        Args:
            values: Numbers of any shape.
            out: An array of that shape to write them to, for many calls on the same values.
        """
        steps = np.divide(values, self.scale, out=out)
        np.rint(steps, out=steps)
        np.clip(steps, self.qmin - self.zero_point, self.qmax - self.zero_point, out=steps)
        return np.multiply(steps, self.scale, out=steps)


@cache
def _signed(bits: int) -> Scheme:
    return Scheme(bits=bits, narrow_range=True)


@cache
def _unsigned(bits: int) -> Scheme:
    return Scheme(bits=bits, signed=False, symmetric=False)


def _valid(step: float) -> float:
    return step if step > _SMALLEST_STEP else 1.0
