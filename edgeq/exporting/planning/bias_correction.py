"""Takes out of the biases what a quantized layer gives too much on average.

A quantized layer computes `w' q(x)` where the float one computes `w x`. The mean of the difference is one number for
each output channel, which the bias takes back for nothing ("Data-Free Quantization Through Weight Equalization and Bias
Correction", Nagel et al., 2019, section 4.2). The rounding of the input is part of it: errors of weights and inputs
cancel in parts, and a correction for the weights alone took that away. By the bias of its stem alone, an output of
YuNet lost 4 dB.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.quantizers.weight import QuantizedWeight

if TYPE_CHECKING:
    from edgeq.exporting.planning.plan import QuantPlan

_INT32 = np.iinfo(np.int32)


def correct_biases(plan: QuantPlan, mean_errors: Mapping[str, np.ndarray]) -> tuple[QuantPlan, int]:
    """Returns the plan with corrected biases, and how many layers they are of.

    Layers whose bias stays in float, or that have none, stay as they are.

    Args:
        plan: The plan.
        mean_errors: Name of a layer -> what it gives too much in each output channel, `(C,)`.
    """
    corrected = {
        name: _less(plan.biases[name], error)
        for name, error in mean_errors.items()
        if name in plan.biases and error.shape == plan.biases[name].integers.shape
    }
    return dataclasses.replace(plan, biases={**plan.biases, **corrected}), len(corrected)


def _less(bias: QuantizedWeight, error: np.ndarray) -> QuantizedWeight:
    """Returns a bias less what is added without it, as far as int32 holds it."""
    steps = np.divide(error, bias.scale, out=np.zeros(error.shape), where=bias.scale > 0)
    integers = np.clip(np.rint(bias.integers - steps), _INT32.min, _INT32.max).astype(np.int32)
    return dataclasses.replace(bias, integers=integers)
