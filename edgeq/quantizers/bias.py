"""Biases as int32, whose step is that of the sums they are added to: `input scale * weight scale`, channel by channel.

The step is not free, so the weight's scale has to suit the bias too:

1. A channel of tiny weights would ask for a bias beyond int32: it gets a coarser scale.
2. A channel whose weights are all zero (pruned, dead) has no scale of its own: it gets one in which its bias, which is
   all that it puts out, has `_STEPS` steps.
3. A bias too small for such a step, as folded BatchNorms leave in dead channels, is 0.
"""

from __future__ import annotations

import numpy as np

from edgeq.quantizers.weight import QuantizedWeight
from edgeq.schemes import INT32, PerAxis

_ROOM = 2.0**30
"""Half of int32: what a quantized bias may use, so that the sums have the rest."""

_STEPS = 2.0**16
"""Steps of the bias of a dead channel: far finer than the 8 bits behind it, and small enough for every kernel."""

_LEAST = float(np.finfo(np.float32).tiny) * _STEPS
"""Biases below are 0: the step of a dead channel's would be no normal float32 number, and may be 0."""


def scale_for_bias(scale: np.ndarray, dead: np.ndarray, bias: np.ndarray, input_scale: float) -> np.ndarray:
    """Returns the weight's scale, float32 of the same shape, in which the bias can be stored.

    Args:
        scale: What the weights ask for, `(channels,)`, or `()` for one scale.
        dead: Whether the weights of a channel (of the tensor) are all zero, of the same shape.
        bias: Float bias `(channels,)`.
        input_scale: Scale of the layer's input.
    """
    sizes = np.where(_counts(bias, input_scale), np.abs(bias.astype(np.float64)), 0) / input_scale
    if not scale.ndim:
        sizes = sizes.max(initial=0.0)
    own = np.where(dead & (sizes > 0), sizes / _STEPS, scale)
    fitted: np.ndarray = np.maximum(own, sizes / _ROOM).astype(np.float32)
    return fitted


def quantize_bias(bias: np.ndarray, scale: np.ndarray, input_scale: float) -> QuantizedWeight:
    """Returns the int32 bias, with a scale for each channel.

    Args:
        bias: Float bias `(channels,)`.
        scale: The weight's scale, `(channels,)` or `()`, as `scale_for_bias` returns it.
        input_scale: Scale of the layer's input.
    """
    step = np.broadcast_to((np.float32(input_scale) * scale).astype(np.float32), bias.shape)
    exact = np.divide(bias.astype(np.float64), step, out=np.zeros(bias.shape), where=_counts(bias, input_scale))
    integers, scheme = np.rint(exact).astype(np.int32), INT32.along(PerAxis(0))
    return QuantizedWeight(integers, np.ascontiguousarray(step), np.zeros(bias.shape, np.int32), scheme)


def _counts(bias: np.ndarray, input_scale: float) -> np.ndarray:
    """Returns whether each bias is more than nothing: large enough for a step and a weight's scale that are normal."""
    return np.asarray(np.abs(bias.astype(np.float64)) >= _LEAST * max(input_scale, 1.0))
