"""Round to nearest on the scales of least squared error: with 16 levels it pays to cut the largest weights off.

The scale that puts the largest weight of a channel on the last level is shrunk in steps, and the one by which the
channel loses least is taken, as AdaRound and BRECQ begin with ("Up or Down?", Nagel et al., 2020, section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeq.quantizers.round_nearest import round_nearest
from edgeq.quantizers.weight import QuantizedWeight, reduced, round_to
from edgeq.schemes import Scheme

_FACTORS = np.linspace(1.0, 0.4, 31)


def least_square(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight rounded to nearest, each scale the one of 31 that has the least squared error.

    Args:
        weight: Float weight of any shape.
        scheme: Integers around zero.
        statistics: Not wanted.
    """
    widest = round_nearest(weight, scheme, statistics)
    best, least = widest, np.full(widest.scale.shape, np.inf)
    for factor in _FACTORS:
        scale = (widest.scale * np.float32(factor)).astype(np.float32)
        tried = replace(widest, integers=round_to(weight, scale, widest.zero_point, scheme), scale=scale)
        errors = reduced(np.add, np.square(tried.dequantize().astype(np.float64) - weight), scheme)
        least = np.minimum(errors, least)
        best = best.rescaled(weight, np.where(errors == least, scale, best.scale))
    return best
