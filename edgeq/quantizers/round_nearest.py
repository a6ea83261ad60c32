"""Every weight becomes the nearest integer, on a grid over all weights that share a scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.quantizers.weight import QuantizedWeight, reduced, round_to
from edgeq.schemes import Scheme

_SMALLEST = 2.0**-100
"""A smaller magnitude is none: its scale, times that of the input, would leave the normal float32 numbers."""


def round_nearest(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight rounded to nearest; what is all zero has the scale 1.

    Args:
        weight: Float weight of any shape.
        scheme: Integers of 2 to 16 bits; with an axis or groups of known place.
        statistics: Not used.

    Raises:
        ValueError: the scheme has a codebook, or is no integer.
    """
    if not scheme.is_integer or scheme.codebook is not None:
        raise ValueError(f"rounding makes evenly spaced integers, not {scheme.codebook or scheme.kind}")
    if scheme.symmetric:
        largest = reduced(np.maximum, np.abs(weight), scheme)
        middle = 0 if scheme.signed else 2 ** (scheme.bits - 1)
        scale = _scale(largest, largest, 2 ** (scheme.bits - 1) - 1)
        zero_point = np.full(scale.shape, middle, scheme.dtype)
    else:
        low = np.minimum(reduced(np.minimum, weight, scheme), 0)
        high = np.maximum(reduced(np.maximum, weight, scheme), 0)
        scale = _scale(high - low, np.maximum(high, -low), scheme.qmax - scheme.qmin)
        zero_point = (scheme.qmin + np.rint(-low.astype(np.float64) / scale)).astype(scheme.dtype)
    return QuantizedWeight(round_to(weight, scale, zero_point, scheme), scale, zero_point, scheme)


def _scale(width: np.ndarray, largest: np.ndarray, levels: int) -> np.ndarray:
    return np.where(largest >= _SMALLEST, width.astype(np.float64) / levels, 1.0).astype(np.float32)
