"""Ranges that cut off the largest weights, where the others gain more by it than those lose.

Whatever has a scale of its own takes the range of a few, from the one that reaches just as far as its weights, by which
its part of the layer's output loses least ("AWQ", Lin et al., 2023, section 3). Magnitudes are cut off, so that of a
lopsided group only the longer side is, and its zero point moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.round_nearest import grid_parameters
from edgeq.quantizers.weight import QuantizedWeight, input_axis, reduced, round_to, spread_over
from edgeq.schemes import PerAxis, PerGroup, Scheme

_CUTS = tuple(1 - step / 20 for step in range(11))
"""Of the largest magnitude."""


def clip(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight rounded to nearest on the ranges by which each group's part of the output loses least.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook.
        statistics: `second_moments` of the inputs, `(K, K)`; without them all inputs count the same.
    """
    moments = statistics.get("second_moments", np.eye(weight.shape[input_axis(scheme)]))
    scale, zero = grid_parameters(weight, scheme)
    if not scheme.double_quantized:  # there the scales depend on each other
        least = np.full(scale.shape, np.inf)
        for tried_scale, tried_zero in cut_grids(weight, scheme, _CUTS):
            tried = QuantizedWeight(
                round_to(weight, tried_scale, tried_zero, scheme), tried_scale, tried_zero, scheme
            ).dequantize()
            errors = _output_errors(tried - weight, moments, scheme)
            better = errors < least
            scale, zero = np.where(better, tried_scale, scale), np.where(better, tried_zero, zero)
            least = np.minimum(errors, least)
    return QuantizedWeight(round_to(weight, scale, zero, scheme), scale, zero, scheme)


def cut_grids(weight: np.ndarray, scheme: Scheme, cuts: Sequence[float]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields scales and zero points of ranges that end at shares of the largest magnitudes.

    Args:
        weight: Float weight of any shape.
        scheme: Integers or indices of a codebook.
        cuts: The shares, 0..1.
    """
    largest = reduced(np.maximum, np.abs(weight), scheme)
    for cut in cuts:
        limit = spread_over(largest * np.float32(cut), weight.shape, scheme)
        yield grid_parameters(np.clip(weight, -limit, limit), scheme)


def _output_errors(difference: np.ndarray, moments: np.ndarray, scheme: Scheme) -> npt.NDArray[np.float64]:
    """Returns the squared error of the part of the output that each scale answers for, of the scales' shape."""
    granularity, inputs = scheme.granularity, input_axis(scheme)
    first = np.moveaxis(difference.astype(np.float64), inputs, 0)
    size = granularity.size if isinstance(granularity, PerGroup) else len(first)
    parts = [slice(start, start + size) for start in range(0, len(first), size)]
    errors = np.stack([((moments[part, part] @ first[part]) * first[part]).sum(axis=0) for part in parts])
    if isinstance(granularity, PerGroup):
        return np.moveaxis(errors, 0, inputs)
    return np.asarray(errors[0] if isinstance(granularity, PerAxis) else errors.sum())
