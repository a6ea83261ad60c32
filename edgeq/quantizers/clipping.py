"""Scales that cut off the largest weights, where the others gain more by it than those lose.

A group has the scale of least error of a few, from the one that reaches just as far as its weights. The error of a
weight counts as much as its input is large; `clip` counts the error of the group's part of the output ("AWQ", Lin et
al., 2023, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.round_nearest import grid_parameters
from edgeq.quantizers.weight import QuantizedWeight, input_axis, reduced, round_to
from edgeq.schemes import PerGroup, Scheme

SHRINK = np.linspace(1.0, 0.6, 9, dtype=np.float32)
"""Of a group's range, before its largest weights are cut off."""

_CLIP = np.linspace(1.0, 0.5, 11, dtype=np.float32)


def least_weighted_error(
    weight: np.ndarray, scheme: Scheme, importance: np.ndarray, storable: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scales and zero points, of the scales' shape, by which rounding to nearest loses least.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook.
        importance: What the squared error of each input counts, `(K,)`.
        storable: Scales -> the next ones that a file can hold.
    """
    widest, zero = grid_parameters(weight, scheme)
    if scheme.double_quantized:
        return widest, zero  # they depend on each other
    counted = np.expand_dims(importance, 1 - input_axis(scheme))
    best, least = storable(widest), np.full(widest.shape, np.inf)
    for factor in SHRINK:
        scale = storable((widest * factor).astype(np.float32))
        errors = reduced(np.add, counted * _squared_error(weight, scale, zero, scheme), scheme)
        best, least = np.where(errors < least, scale, best), np.minimum(errors, least)
    return best, zero


def clip(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight rounded to nearest on the scales by which each group's part of the output loses least.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook.
        statistics: `second_moments` of the inputs, `(K, K)`; without them all inputs count the same.
    """
    inputs = input_axis(scheme)
    moments = statistics.get("second_moments", np.eye(weight.shape[inputs]))
    widest, zero = grid_parameters(weight, scheme)
    plain = QuantizedWeight(round_to(weight, widest, zero, scheme), widest, zero, scheme)
    if scheme.double_quantized or not isinstance(scheme.granularity, PerGroup):
        scale, _ = least_weighted_error(weight, scheme, moments.diagonal(), np.asarray)
        return plain.rescaled(weight, scale)
    best, least = widest, np.full(widest.shape, np.inf)
    for factor in _CLIP:
        scale = (widest * factor).astype(np.float32)
        difference = plain.rescaled(weight, scale).dequantize().astype(np.float64) - weight
        errors = _output_errors(difference, moments, scheme.granularity)
        best, least = np.where(errors < least, scale, best), np.minimum(errors, least)
    return plain.rescaled(weight, best)


def _output_errors(
    difference: npt.NDArray[np.float64], moments: np.ndarray, granularity: PerGroup
) -> npt.NDArray[np.float64]:
    """Returns the squared error of each group's part of the output, of the scales' shape."""
    first = np.moveaxis(difference, granularity.axis, 0)
    found = []
    for start in range(0, len(first), granularity.size):
        part = slice(start, start + granularity.size)
        found.append(((moments[part, part] @ first[part]) * first[part]).sum(axis=0))
    return np.moveaxis(np.stack(found), 0, granularity.axis)


def _squared_error(weight: np.ndarray, scale: np.ndarray, zero: np.ndarray, scheme: Scheme) -> np.ndarray:
    rounded = QuantizedWeight(round_to(weight, scale, zero, scheme), scale, zero, scheme)
    return np.asarray(np.square(rounded.dequantize().astype(np.float64) - weight))
