"""HQQ: grids that suit the weights, found without data ("Half-Quadratic Quantization", Badri and Shaji, 2023).

The error is counted by a norm below 1, which forgives the few largest weights. Two steps take turns: what the norm
forgives is taken off the error, and the zero point becomes the mean of what is left, as published. Kernels want integer
zero points, which such a step never moves: for them the scale takes the turn, by least squares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.quantizers.round_nearest import grid_parameters
from edgeq.quantizers.weight import QuantizedWeight, reduced, round_to, spread
from edgeq.schemes import Scheme

_ROUNDS = 20
_NORM = 0.7
_PENALTY = 10.0
_GROWTH = 1.01
_TINY = 1e-8


def hqq(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight on the zero points or scales by which the mean magnitude of each group's error is least.

    Args:
        weight: Float weight of any shape.
        scheme: Integers with zero points: of any value, or integers.
        statistics: Not used.

    Raises:
        ValueError: the scheme has no zero points.
    """
    if scheme.symmetric or scheme.codebook is not None:
        raise ValueError("HQQ chooses grids with zero points, and the scheme has none")

    def on(scale: np.ndarray, zero: np.ndarray) -> QuantizedWeight:
        return QuantizedWeight(round_to(weight, scale, zero, scheme), scale, zero, scheme)

    best = tried = on(*grid_parameters(weight, scheme))
    least, penalty = _mean_error(best, weight), _PENALTY
    for _ in range(_ROUNDS):
        error = weight - tried.dequantize().astype(np.float64)
        magnitude = np.abs(error)
        # Errors of 0 would divide by it.
        shrunk = np.maximum(magnitude, _TINY) ** (_NORM - 1) / penalty
        kept = weight - np.sign(error) * np.maximum(magnitude - shrunk, 0)
        tried = on(*(_moved_zero(tried, kept) if scheme.real_zero else _fitted_scale(tried, kept)))
        errors = _mean_error(tried, weight)
        better = errors < least
        best = on(*(np.where(better, getattr(tried, name), getattr(best, name)) for name in ("scale", "zero_point")))
        least, penalty = np.minimum(errors, least), penalty * _GROWTH
    return best


def _moved_zero(tried: QuantizedWeight, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scales as they are, and the zero points that suit the integers best."""
    wanted = tried.integers.astype(np.float64) - kept / spread(tried.scale, tried)
    count = reduced(np.add, np.ones(kept.shape), tried.scheme)
    return tried.scale, (reduced(np.add, wanted, tried.scheme) / count).astype(np.float32)


def _fitted_scale(tried: QuantizedWeight, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scales that suit the integers best, and the zero points as they are."""
    steps = tried.integers.astype(np.float64) - spread(tried.zero_point, tried)
    square = reduced(np.add, np.square(steps), tried.scheme)
    fitted = reduced(np.add, steps * kept, tried.scheme) / np.where(square > 0, square, 1)
    return np.where(fitted > 0, fitted, tried.scale).astype(np.float32), tried.zero_point


def _mean_error(quantized: QuantizedWeight, weight: np.ndarray) -> np.ndarray:
    return reduced(np.add, np.abs(quantized.dequantize().astype(np.float64) - weight), quantized.scheme)
