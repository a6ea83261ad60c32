"""Every weight becomes the nearest number, on a grid over all weights that share a scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.quantizers.codebooks import double_quantized
from edgeq.quantizers.weight import QuantizedWeight, reduced, round_to
from edgeq.schemes import Scheme

_SMALLEST = 2.0**-100
"""A smaller magnitude is none: its scale, times that of the input, would leave the normal float32 numbers."""


def round_nearest(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight rounded to nearest; what is all zero has the scale 1.

    Args:
        weight: Float weight of any shape.
        scheme: Integers of 2 to 16 bits, or indices of a codebook; with an axis or groups of known place.
        statistics: Not used.

    Raises:
        ValueError: the scheme is no integer.
    """
    scale, zero_point = grid_parameters(weight, scheme)
    return QuantizedWeight(round_to(weight, scale, zero_point, scheme), scale, zero_point, scheme)


def grid_parameters(weight: np.ndarray, scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scales and zero points whose grids reach just as far as the weights; arguments as `round_nearest`."""
    if not scheme.is_integer:
        raise ValueError(f"rounding makes integers, not {scheme.kind}")
    if scheme.codebook is not None or scheme.symmetric:
        largest = reduced(np.maximum, np.abs(weight), scheme)
        is_table = scheme.codebook is not None
        middle = 0 if scheme.signed or is_table else 2 ** (scheme.bits - 1)
        scale = _scale(largest, largest, 1 if is_table else 2 ** (scheme.bits - 1) - 1)
        if scheme.double_quantized:
            scale = double_quantized(scale)
        return scale, np.full(scale.shape, middle, scheme.dtype)
    low, high = reduced(np.minimum, weight, scheme), reduced(np.maximum, weight, scheme)
    if scheme.real_zero:
        scale = _scale(high - low, high - low, scheme.qmax - scheme.qmin)
        return scale, (scheme.qmin - low.astype(np.float64) / scale).astype(np.float32)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = _scale(high - low, np.maximum(high, -low), scheme.qmax - scheme.qmin)
    return scale, (scheme.qmin + np.rint(-low.astype(np.float64) / scale)).astype(scheme.dtype)


def _scale(width: np.ndarray, largest: np.ndarray, levels: int) -> np.ndarray:
    return np.where(largest >= _SMALLEST, width.astype(np.float64) / levels, 1.0).astype(np.float32)
