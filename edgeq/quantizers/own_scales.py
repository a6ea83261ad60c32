"""Weights that lie on a grid already, because they come from a quantized file, keep it."""

from __future__ import annotations

import numpy as np

from edgeq.quantizers.weight import QuantizedWeight

_NEAR = 1e-3
"""In steps: a weight on a grid is off it by the rounding of float32 alone."""


def on_own_scales(weight: np.ndarray, quantized: QuantizedWeight, scale: np.ndarray, axis: int) -> QuantizedWeight:
    """Returns a weight on the scales that it has, or as it was quantized anew if it does not lie on them.

    Args:
        weight: The float weight.
        quantized: The same by some method, around zero.
        scale: The weight's own scales, one or several.
        axis: The axis of several.
    """
    several = scale.size > 1
    if several and (quantized.axis is None or axis % weight.ndim != quantized.axis % weight.ndim):
        return quantized
    own = np.broadcast_to(scale.reshape(-1) if several else scale.reshape(()), quantized.scale.shape)
    if not (own > 0).all():
        return quantized
    found = quantized.rescaled(weight, own)
    off = np.abs(found.dequantize() - weight).max(initial=0.0)
    return found if off <= _NEAR * float(own.max()) else quantized
