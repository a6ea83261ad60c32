"""GPTQ as a weight method: errors fed forward by the second moments that calibration saw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeq.errors import InputError
from edgeq.quantizers.error_feedback import feed_integers_forward
from edgeq.quantizers.weight import QuantizedWeight
from edgeq.schemes import Scheme

_DAMPING = 0.01
"""Share of the mean second moment that is added to each, as published."""


def gptq(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the weight with little lost of the layer's output, inputs rounded in the order in which they lie.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook; groups may be of any size.
        statistics: `second_moments` of the inputs, `(K, K)`.

    Raises:
        InputError: there are no second moments.
    """
    return feed_integers_forward(weight, scheme, _damped(statistics), np.asarray)


def gptq_act_order(weight: np.ndarray, scheme: Scheme, statistics: Mapping[str, np.ndarray]) -> QuantizedWeight:
    """Returns the same with the inputs of largest moments rounded first, on scales that are set before.

    Groups hold the same inputs as without (static groups), so that kernels need no permutation.
    """
    return feed_integers_forward(weight, scheme, _damped(statistics), np.asarray, act_order=True)


def _damped(statistics: Mapping[str, np.ndarray]) -> np.ndarray:
    if "second_moments" not in statistics:
        raise InputError("gptq rounds by what layers read, and there are no second moments; give `calib` with images")
    moments = statistics["second_moments"].astype(np.float64)
    mean = moments.diagonal().mean()
    return np.asarray(moments + (_DAMPING * mean if mean > 0 else 1.0) * np.eye(len(moments)))
