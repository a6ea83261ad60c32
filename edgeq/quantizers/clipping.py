"""Scales that cut off the largest weights, where the others gain more by it than those lose.

A group has the scale of a few, from the one that reaches just as far as its weights, by which its part of the layer's
output loses least ("AWQ", Lin et al., 2023, section 3). In whole rows and tensors the error of a weight counts as much
as its input is large.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.round_nearest import grid_parameters
from edgeq.quantizers.weight import QuantizedWeight, input_axis, reduced, round_to
from edgeq.schemes import PerGroup, Scheme

SHRINK = np.linspace(1.0, 0.6, 9, dtype=np.float32)
"""Of a group's range, before its largest weights are cut off."""

_CLIP = np.linspace(1.0, 0.5, 11, dtype=np.float32)


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
    if scheme.double_quantized:
        return plain  # the scales depend on each other
    granularity, counted = scheme.granularity, np.expand_dims(moments.diagonal(), 1 - inputs)
    best, least = widest, np.full(widest.shape, np.inf)
    for factor in _CLIP:
        scale = (widest * factor).astype(np.float32)
        difference = plain.rescaled(weight, scale).dequantize().astype(np.float64) - weight
        if isinstance(granularity, PerGroup):
            errors = _output_errors(difference, moments, granularity)
        else:
            errors = reduced(np.add, counted * np.square(difference), scheme)
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
