"""Codebooks: tables of numbers that the integers of a weight are indices of, and scales that are quantized themselves.

`nf4` are quantiles of the normal distribution, each as likely as the others for normal weights ("QLoRA", Dettmers et
al., 2023, appendix E); `fp4` are the numbers of `float4_e2m1fn`, divided by their largest. Both reach from -1 to 1, so
that the scale of a group is its largest magnitude.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeq.errors import InputError

SCALE_BLOCK = 256
"""Scales that share a scale of their own, where they are quantized too."""

_FLOAT8_MAX = 448.0

_FP4 = np.array([0.5, 1, 1.5, 2, 3, 4, 6], np.float32) / np.float32(6)

CODEBOOKS: dict[str, npt.NDArray[np.float32]] = {
    "nf4": np.array(
        [
            -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
            -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
            0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
        ],
        np.float32,
    ),
    "fp4": np.concatenate([-_FP4[::-1], np.zeros(1, np.float32), _FP4]),
}  # fmt: skip
"""Name -> its numbers in rising order, the largest 1."""


def codebook(name: str) -> npt.NDArray[np.float32]:
    """Returns the numbers of a codebook, in rising order.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CODEBOOKS:
        raise InputError(f"codebook {name!r}: known are {', '.join(CODEBOOKS)}")
    return CODEBOOKS[name]


def nearest_index(steps: np.ndarray, name: str) -> npt.NDArray[np.intp]:
    """Returns the index of the nearest number of a codebook for each of some weights in units of their scale."""
    table = codebook(name).astype(np.float64)
    return np.searchsorted((table[1:] + table[:-1]) / 2, steps)


def double_quantized(scale: np.ndarray) -> npt.NDArray[np.float32]:
    """Returns scales as they come back from FP8: their mean is subtracted, and 256 of them share a scale.

    QLoRA, section 3. Scales are positive: their mean takes a bit from the numbers in FP8 that none of them needs.

    Args:
        scale: Positive scales of any shape, float32.
    """
    import ml_dtypes

    mean = scale.mean(dtype=np.float64)
    centred = scale.reshape(-1).astype(np.float64) - mean
    blocks = np.pad(centred, (0, -len(centred) % SCALE_BLOCK)).reshape(-1, SCALE_BLOCK)
    step = np.abs(blocks).max(axis=1, keepdims=True) / _FLOAT8_MAX
    step[step == 0] = 1
    back = (blocks / step).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * step
    found = back.reshape(-1)[: len(centred)].reshape(scale.shape) + mean
    # The rounding of the mean may leave nothing of a scale that is tiny next to the others.
    return np.asarray(np.maximum(found, scale.min() / 2), np.float32)
