"""Twin uniform quantization as analysis: what one evenly spaced grid loses on the outputs of softmax and GELU.

Yuan et al., "PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization" (ECCV 2022),
section 3.2. One of the `n` bits says which of two ranges a value lies in, the other `n - 1` count its steps there. The
step of the second range is `2**m` times that of the first, so that the sums of both can be joined by a shift.

1. After a softmax the ranges share the positive side: R1 holds the many small values, from 0 to `2**(n-1)` fine steps,
   R2 everything up to the clip in coarse ones.
2. After a GELU they are the two sides of zero: R1 holds the short negative tail, R2 the positive values.

It is no calibration method: no engine has a matrix product whose operand changes its step by element, and written in
plain operators the product is computed twice (once a range), or in float. Either costs more time than INT8 saves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeq.calibrators.grid import Floats, Grid, check_bits
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.least_error import expected_error, mse

# Ends of R2 as fractions of the extreme, eight an octave, down to 1/16 of it.
_FRACTIONS = 2.0 ** -np.arange(0, 4 + 1 / 16, 1 / 8)
_MAX_SHIFT = 15


@dataclass(frozen=True)
class TwinUniform:
    """What a tensor loses on one grid and on two.

    Attributes:
        form: `softmax` (two ranges of one sign) or `gelu` (one range a sign).
        bits: Bits of a number, the range flag among them.
        one_grid_error: Mean squared error of the best single asymmetric grid (method `mse`).
        twin_error: Mean squared error of the best pair.
        gain_db: `10 * log10(one_grid_error / twin_error)`: how much the pair gains; infinite where it is exact.
        fine_step: Step of R1.
        shift: `m`: the step of R2 is `2**m` times that of R1.
    """

    form: str
    bits: int
    one_grid_error: float
    twin_error: float
    gain_db: float
    fine_step: float
    shift: int


def twin_uniform(histogram: Histogram, bits: int = 8) -> TwinUniform:
    """Returns what one grid loses against twin uniform quantization on a tensor's values.

    The end of R2 and the shift are searched for the least mean squared error; a tensor with negative values takes the
    form for GELU, any other that for softmax.

    Args:
        histogram: The values.
        bits: From 2 to 8.

    Raises:
        InputError: the bits are not 2 to 8.
    """
    bits = check_bits(bits)
    best = mse(histogram, bits=bits)
    one = expected_error(histogram, Grid.asymmetric(best.low, best.high, bits), 2.0) if histogram.total else 0.0
    form = "gelu" if histogram.minimum < 0 else "softmax"
    filled = histogram.counts > 0
    values, counts = histogram.centers()[filled], histogram.counts[filled]
    steps = 2 ** (bits - 1)
    twin, fine_step, shift = math.inf, 1.0, 0
    if not histogram.amax:
        twin = 0.0
    else:
        extreme = histogram.maximum if histogram.maximum > 0 else -histogram.minimum
        for end in extreme * _FRACTIONS:
            for candidate in range(_MAX_SHIFT + 1):
                step = float(end) / (steps - 1) / 2**candidate
                quantized = (_two_signs if form == "gelu" else _two_slopes)(values, step, candidate, steps)
                error = float(np.average((quantized - values) ** 2, weights=counts))
                if error < twin:
                    twin, fine_step, shift = error, step, candidate
    gain = 10 * math.log10(one / twin) if one and twin else (math.inf if one else 0.0)
    return TwinUniform(form, bits, one, twin, gain, fine_step, shift)


def twin_uniform_by_tensor(histograms: Mapping[str, Histogram], bits: int = 8) -> dict[str, TwinUniform]:
    """Returns tensor name -> what one grid loses, for the histograms of `Ranges.histograms` that are given."""
    return {name: twin_uniform(histogram, bits) for name, histogram in histograms.items()}


def _two_slopes(values: Floats, step: float, shift: int, steps: int) -> Floats:
    """Quantizes what the fine range holds with `step`, and the rest with `step * 2**shift`."""
    coarse = step * 2**shift
    fine = np.clip(np.rint(values / step), 0, steps - 1) * step
    return np.where(values < steps * step, fine, np.clip(np.rint(values / coarse), 0, steps - 1) * coarse)


def _two_signs(values: Floats, step: float, shift: int, steps: int) -> Floats:
    """Quantizes negative values with `step`, and the others with `step * 2**shift`."""
    coarse = step * 2**shift
    fine = np.clip(np.rint(values / step), -(steps - 1), 0) * step
    return np.where(values < 0, fine, np.clip(np.rint(values / coarse), 0, steps - 1) * coarse)
