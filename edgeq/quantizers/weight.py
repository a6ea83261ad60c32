"""`QuantizedWeight`: the integers of a constant and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeq.quantizers.codebooks import SCALE_BLOCK, codebook, nearest_index
from edgeq.schemes import PerAxis, PerGroup, Scheme


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A quantized weight or bias: `real = (integer - zero_point) * scale`, or `codebook[integer] * scale`.

    Attributes:
        integers: Of the weight's shape, in the scheme's type.
        scale: Positive steps, float32: `()` for one; `(channels,)` along an axis; in groups the weight's shape with the
            number of groups in place of the length of the axis.
        zero_point: The integers that stand for 0, of `scale`'s shape and the integers' type; float32 where the scheme
            allows any number, and zeros with a codebook.
        scheme: How they are stored; the axis of its granularity is a number.
        tensor_scale: Of FP4: the number that all scales are multiples of, by numbers of FP8, `()` float32.
    """

    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    scheme: Scheme
    tensor_scale: np.ndarray | None = None

    @property
    def axis(self) -> int | None:
        """The axis along which scales differ; `None` for one scale."""
        granularity = self.scheme.granularity
        return granularity.axis if isinstance(granularity, PerAxis | PerGroup) else None

    @property
    def dead(self) -> np.ndarray:
        """Whether all that one scale is for is zero, of `scale`'s shape."""
        zero: np.ndarray = reduced(np.logical_and, self.integers == spread(self.zero_point, self), self.scheme)
        return zero

    def dequantize(self) -> np.ndarray:
        """Returns the real numbers, float32 of the weight's shape."""
        if self.scheme.codebook is not None:
            values = codebook(self.scheme.codebook)[self.integers].astype(np.float64)
            return np.asarray(values * spread(self.scale, self), np.float32)
        steps = self.integers.astype(np.float64) - spread(self.zero_point, self).astype(np.float64)
        numbers: np.ndarray = (steps * spread(self.scale, self).astype(np.float64)).astype(np.float32)
        return numbers

    def rescaled(self, weight: np.ndarray, scale: np.ndarray) -> QuantizedWeight:
        """Returns the weight on other scales: where one changes its part is rounded anew, all else stays as it is.

        Args:
            weight: The float weight.
            scale: The new scales, of the same shape.
        """
        scale = scale.astype(np.float32)
        if np.array_equal(scale, self.scale):
            return self
        anew = replace(self, scale=scale)
        changed = spread(scale != self.scale, self)
        rounded = round_to(weight, scale, self.zero_point, self.scheme)
        return replace(anew, integers=np.where(changed, rounded, self.integers))


def joined(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Returns the matrix whose rows are those of several, one behind the other, each row with scales of its own."""
    if len(parts) == 1:
        return parts[0]
    integers, scale, zero = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("integers", "scale", "zero_point")
    )
    return QuantizedWeight(integers, scale, zero, parts[0].scheme)


def round_to(weight: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Returns the nearest integers of a weight on given scales, halves to even, outliers clipped."""
    steps = np.asarray(weight, np.float64) / _spread(scale, weight.shape, scheme).astype(np.float64)
    if scheme.codebook is not None:
        return nearest_index(steps, scheme.codebook).astype(scheme.dtype)
    zero = _spread(zero_point, weight.shape, scheme)
    shifted = np.rint(steps + zero) if scheme.real_zero else np.rint(steps) + zero
    integers: np.ndarray = np.clip(shifted, scheme.qmin, scheme.qmax).astype(scheme.dtype)
    return integers


def stored_bits(scheme: Scheme, size: int, scale_bits: int = 32) -> float:
    """Returns how many bits are stored for each number of a tensor, with its share of scales and zero points.

    Args:
        scheme: In groups, or with one scale for the tensor or an axis, whose share is nothing.
        size: Numbers that share a scale.
        scale_bits: Of a scale; those that are quantized themselves take 8, and 32 for each block of them.
    """
    if scheme.double_quantized:
        scale: float = 8 + 32 / SCALE_BLOCK
    else:
        scale = scale_bits
    zero = 0 if scheme.symmetric else scale_bits if scheme.real_zero else scheme.bits
    return scheme.bits + (scale + zero) / size


def spread(parameters: np.ndarray, weight: QuantizedWeight) -> np.ndarray:
    """Returns scales or zero points so that they go with the integers element by element."""
    return _spread(parameters, weight.integers.shape, weight.scheme)


def spread_over(parameters: np.ndarray, shape: tuple[int, ...], scheme: Scheme) -> np.ndarray:
    """Returns one scale or zero point for every number of a tensor."""
    return np.broadcast_to(_spread(parameters, shape, scheme), shape)


def input_axis(scheme: Scheme) -> int:
    """Returns the axis of a matrix along which a layer adds: that of its groups, or the other than its scales'.

    A matrix with one scale is taken for `(out, in)`.
    """
    granularity = scheme.granularity
    if isinstance(granularity, PerGroup):
        return granularity.axis % 2
    return 1 - _number(granularity) % 2 if isinstance(granularity, PerAxis) else 1


def reduced(function: np.ufunc, array: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Returns one number for everything that has a scale of its own, of the scales' shape."""
    granularity = scheme.granularity
    if isinstance(granularity, PerGroup):
        axis = granularity.axis % array.ndim
        return np.asarray(function.reduceat(array, range(0, array.shape[axis], granularity.size), axis=axis))
    if isinstance(granularity, PerAxis):
        others = tuple(each for each in range(array.ndim) if each != _number(granularity) % array.ndim)
        return np.asarray(function.reduce(array, axis=others))
    return np.asarray(function.reduce(array, axis=None))


def _spread(parameters: np.ndarray, shape: tuple[int, ...], scheme: Scheme) -> np.ndarray:
    granularity = scheme.granularity
    if isinstance(granularity, PerGroup):
        axis = granularity.axis % len(shape)
        return np.take(np.repeat(parameters, granularity.size, axis), range(shape[axis]), axis)
    if isinstance(granularity, PerAxis) and parameters.ndim:
        axis = _number(granularity) % len(shape)
        return parameters.reshape([-1 if each == axis else 1 for each in range(len(shape))])
    return parameters


def _number(granularity: PerAxis) -> int:
    if granularity.axis is None:
        raise ValueError("the axis of a weight's channels is not known; a plan fills it in")
    return granularity.axis
