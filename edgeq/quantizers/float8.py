"""FP8 weights, `float8_e4m3fn`: three bits of mantissa and four of exponent, 448 the largest (OCP's specification)."""

from __future__ import annotations

import numpy as np

from edgeq.quantizers.weight import QuantizedWeight, reduced, spread
from edgeq.schemes import FLOAT8_MAX, Scheme

_SMALLEST = 2.0**-100
"""A smaller magnitude is none, as for integers."""


def round_float8(weight: np.ndarray, scheme: Scheme) -> QuantizedWeight:
    """Returns the weight rounded to the nearest FP8 numbers, the largest of each scale at 448; zeros have scale 1.

    Args:
        weight: Float weight of any shape.
        scheme: FP8, with an axis of known place.
    """
    import ml_dtypes

    largest = reduced(np.maximum, np.abs(weight), scheme).astype(np.float64)
    scale = np.where(largest >= _SMALLEST, largest / FLOAT8_MAX, 1.0).astype(np.float32)
    zero = np.zeros(scale.shape, ml_dtypes.float8_e4m3fn)
    empty = QuantizedWeight(np.zeros(weight.shape, ml_dtypes.float8_e4m3fn), scale, zero, scheme)
    # Scales are rounded: the largest weight may lie an ulp beyond 448, which has no neighbour above but NaN.
    steps = np.clip(weight / spread(scale, empty), -FLOAT8_MAX, FLOAT8_MAX)
    return QuantizedWeight(steps.astype(ml_dtypes.float8_e4m3fn), scale, zero, scheme)
