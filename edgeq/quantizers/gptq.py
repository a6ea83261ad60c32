"""GPTQ as a weight method: errors fed forward by the second moments that calibration saw.

Where scales are set before anything is rounded, each output has the range of a few that loses least of it: outputs
share nothing, and what each loses is known exactly when it is rounded. A range that suits rounding to nearest does not
suit GPTQ: clipping as AWQ does it cost a ViT at 2 bits in whole rows a third more of its output than no clipping.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError
from edgeq.quantizers.clipping import cut_grids
from edgeq.quantizers.error_feedback import (
    RoundingOrder,
    as_integers,
    feed_integers_forward,
    feed_on_set_scales,
    nearest_numbers,
)
from edgeq.quantizers.weight import QuantizedWeight, input_axis, spread_over
from edgeq.schemes import PerAxis, PerGroup, Scheme

_DAMPING = 0.01
"""Share of the mean second moment that is added to each, as published."""

_CUTS = tuple(1 - step / 20 for step in range(9))
"""Ranges that outputs choose from, as shares of the largest magnitude of each group."""

_FEW_BITS, _CUTS_OF_MANY = 4, 5
"""From 4 bits on hardly any output chooses one of the narrower ranges."""

_LARGEST_GROUP = 128
"""Larger groups have ranges that are set before anything is rounded."""


def gptq(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight with little lost of the layer's output, inputs rounded in the order in which they lie.

    Groups of up to 128 inputs choose their scales when all inputs before them are rounded.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook; groups may be of any size.
        statistics: `second_moments` of the inputs, `(K, K)`.

    Raises:
        InputError: there are no second moments.
    """
    (moments, damping), granularity = _moments(statistics), scheme.granularity
    if isinstance(granularity, PerGroup) and granularity.size <= _LARGEST_GROUP and not scheme.double_quantized:
        return feed_integers_forward(weight, scheme, moments, np.asarray, damping)
    return _on_best_ranges(weight, scheme, RoundingOrder.of(moments, act_order=False, damping=damping))


def gptq_act_order(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the same with the inputs of largest moments rounded first, on scales that are set before.

    Groups hold the same inputs as without (static groups), so that kernels need no permutation.
    """
    moments, damping = _moments(statistics)
    return _on_best_ranges(weight, scheme, RoundingOrder.of(moments, act_order=True, damping=damping))


def _on_best_ranges(weight: np.ndarray, scheme: Scheme, order: RoundingOrder) -> QuantizedWeight:
    """Returns the weight with errors fed forward on the range of `_CUTS` by which each output loses least.

    Outputs that share scales, or the scales of scales, have one range.
    """
    inputs, nearest = input_axis(scheme), nearest_numbers(scheme)
    together = not isinstance(scheme.granularity, PerAxis | PerGroup) or scheme.double_quantized
    first = np.moveaxis(weight, inputs, 0)
    best: tuple[np.ndarray, ...] = ()
    cuts = _CUTS if scheme.bits < _FEW_BITS else _CUTS[:_CUTS_OF_MANY]
    for scale, zero in cut_grids(weight, scheme, cuts):
        scales, zeros = (np.moveaxis(spread_over(each, weight.shape, scheme), inputs, 0) for each in (scale, zero))
        numbers, lost = feed_on_set_scales(first, order, scales, zeros, nearest)
        if together:
            lost = np.full_like(lost, lost.sum())
        tried: tuple[np.ndarray, ...] = (lost, np.moveaxis(numbers, 0, inputs), scale, zero)
        if best:
            better = lost < best[0]
            tried = tuple(_chosen(better, new, old, inputs) for new, old in zip(tried, best, strict=True))
        best = tried
    _, numbers, scale, zero = best
    return as_integers(numbers, scale, zero, scheme)


def _chosen(better: np.ndarray, new: np.ndarray, old: np.ndarray, inputs: int) -> np.ndarray:
    """Returns the new parts of some outputs and the old ones of all others; a scalar is of all."""
    if not new.ndim:
        return new if better.all() else old
    return np.where(np.expand_dims(better, inputs) if new.ndim > 1 else better, new, old)


def _moments(statistics: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Returns second moments, and what is to be added to each."""
    if "second_moments" not in statistics:
        raise InputError("gptq rounds by what layers read, and there are no second moments; give `calib` with images")
    moments = statistics["second_moments"]
    mean = float(moments.diagonal().mean())
    return moments, _DAMPING * mean if mean > 0 else 1.0
