"""AWQ's scales: the input channels that matter most get larger weights, which rounding then hurts less.

The weight of channel j is multiplied by `s_j` and its input divided by it, which changes nothing but the rounding
("AWQ", Lin et al., 2023). `s_j` is a power of how large the channel is; the exponent is searched by the error of the
output.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.round_nearest import round_nearest
from edgeq.quantizers.weight import input_axis
from edgeq.schemes import Scheme

_EXPONENTS = np.arange(20) / 20
_SMALLEST = 1e-4
"""Of the largest channel: smaller ones count as so large."""


def search_channel_scales(
    weights: Sequence[np.ndarray], schemes: Sequence[Scheme], moments: npt.NDArray[np.float64], taps: int = 1
) -> npt.NDArray[np.float32]:
    """Returns what the weights of each input channel are multiplied by, `(K / taps,)`; ones where nothing is gained.

    Args:
        weights: Those of all layers that read the same tensor, matrices.
        schemes: Of each.
        moments: Second moments of the inputs, `(K, K)`.
        taps: Inputs of a channel, which are neighbours: positions of a convolution's kernel.
    """
    sizes = np.sqrt(moments.diagonal().reshape(-1, taps).mean(axis=1))
    sizes = np.maximum(sizes / sizes.max(), _SMALLEST)
    best, least = np.ones(len(sizes), np.float32), np.inf
    for exponent in _EXPONENTS:
        scales = sizes**exponent
        scales = (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)
        error = sum(
            _output_error(weight, scheme, moments, np.repeat(scales, taps))
            for weight, scheme in zip(weights, schemes, strict=True)
        )
        if error < least:
            best, least = scales, float(error)
    return best


def scaled(weight: np.ndarray, scheme: Scheme, scales: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns a weight whose inputs are multiplied by scales `(K,)`."""
    return np.asarray(weight * np.expand_dims(scales, 1 - input_axis(scheme)), np.float32)


def _output_error(weight: np.ndarray, scheme: Scheme, moments: np.ndarray, scales: np.ndarray) -> float:
    rounded = round_nearest(scaled(weight, scheme, scales), scheme, {}).dequantize()
    difference = np.moveaxis(scaled(rounded, scheme, 1 / scales).astype(np.float64) - weight, input_axis(scheme), 0)
    return float(((moments @ difference) * difference).sum())
