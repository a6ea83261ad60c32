"""FP4 weights, `float4_e2m1fn`: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives (OCP's Microscaling specification).

NVFP4 stores them in blocks, each with a scale in FP8 (`float8_e4m3fn`); these scales are multiples of one number for
the whole tensor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.error_feedback import BlockGrid, feed_errors_forward
from edgeq.quantizers.weight import QuantizedWeight, reduced, spread
from edgeq.schemes import FLOAT4_MAX, FLOAT8_MAX, Scheme

_PEAKS = (FLOAT4_MAX, 4.0)
_TRIED_PEAKS = (8.0, 7.0, FLOAT4_MAX, 5.5, 5.0, 4.5, 4.0)
"""Of blocks whose errors are fed forward; beyond 6 the largest weights are cut off."""
_SMALLEST_FLOAT8 = 2.0**-9
_SMALLEST = 2.0**-100
"""A smaller magnitude is none, as for integers."""


def least_tensor_scale(weight: np.ndarray) -> np.ndarray:
    """Returns the smallest scale for a whole tensor that keeps its blocks' scales within FP8, `()`; 1 for zeros."""
    largest = np.abs(weight).max(initial=0.0)
    return np.asarray(largest / (min(_PEAKS) * FLOAT8_MAX) if largest >= _SMALLEST else 1.0, np.float32)


def round_float4(weight: np.ndarray, scheme: Scheme, tensor_scale: np.ndarray) -> QuantizedWeight:
    """Returns the weight rounded to the nearest FP4 numbers, on the FP8 scales that lose the least of each block.

    The largest of a block becomes about 6, or about 4: no number lies between the two, so that a block with several
    large weights keeps more of them on the wider scale ("Four Over Six", Cook et al., 2025).

    Args:
        weight: Float weight of any shape.
        scheme: FP4, in groups along a known axis.
        tensor_scale: The scale of the scales, at least `least_tensor_scale`.
    """
    tried = [_with_peak(weight, scheme, tensor_scale, peak) for peak in _PEAKS]
    errors = [reduced(np.add, np.square(each.dequantize() - weight), scheme) for each in tried]
    best = np.argmin(errors, axis=0)
    scale = np.choose(best, [each.scale for each in tried])
    numbers = np.choose(spread(best, tried[0]), [each.integers for each in tried])
    return replace(tried[0], integers=numbers, scale=scale)


def feed_float4_forward(
    weight: np.ndarray, scheme: Scheme, tensor_scale: np.ndarray, moments: npt.NDArray[np.float64]
) -> QuantizedWeight:
    """Returns the weight in FP4 with little lost of the layer's output (`edgeq.quantizers.error_feedback`).

    Args:
        weight: Float weight, a matrix.
        scheme: FP4, in groups along the axis of the inputs.
        tensor_scale: The scale of the scales, at least `least_tensor_scale`.
        moments: Second moments of the inputs, positive definite, `(K, K)`.
    """
    import ml_dtypes

    def parameters(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        largest = np.abs(block).max(axis=0)
        scales = np.stack([_scale(largest, tensor_scale, peak) for peak in _TRIED_PEAKS])
        return scales, np.zeros_like(scales)

    def nearest(steps: np.ndarray) -> np.ndarray:
        numbers: np.ndarray = np.clip(steps, -FLOAT4_MAX, FLOAT4_MAX).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
        return numbers

    fed = feed_errors_forward(weight, moments, scheme, BlockGrid(parameters, nearest))
    numbers = fed.numbers.astype(ml_dtypes.float4_e2m1fn)
    zero = np.zeros(fed.scales.shape, ml_dtypes.float4_e2m1fn)
    return QuantizedWeight(numbers, fed.scales, zero, scheme, tensor_scale)


def _with_peak(weight: np.ndarray, scheme: Scheme, tensor_scale: np.ndarray, peak: float) -> QuantizedWeight:
    """Returns the weight with the largest of each block at `peak`, as far as FP8 allows; what is beyond 6 is 6."""
    import ml_dtypes

    scale = _scale(reduced(np.maximum, np.abs(weight), scheme), tensor_scale, peak)
    zero = np.zeros(scale.shape, ml_dtypes.float4_e2m1fn)
    empty = QuantizedWeight(np.zeros(weight.shape, ml_dtypes.float4_e2m1fn), scale, zero, scheme, tensor_scale)
    steps = np.clip(weight / spread(scale, empty), -FLOAT4_MAX, FLOAT4_MAX)
    return replace(empty, integers=steps.astype(ml_dtypes.float4_e2m1fn))


def _scale(largest: np.ndarray, tensor_scale: np.ndarray, peak: float) -> np.ndarray:
    """Returns scales that put the largest of blocks at about `peak`; where FP8 has only zero, the smallest above."""
    import ml_dtypes

    wanted = np.minimum(largest.astype(np.float64) / peak / tensor_scale.astype(np.float64), FLOAT8_MAX)
    blocks = np.maximum(wanted.astype(ml_dtypes.float8_e4m3fn).astype(np.float64), _SMALLEST_FLOAT8)
    scale: np.ndarray = (blocks * tensor_scale.astype(np.float64)).astype(np.float32)
    return scale
