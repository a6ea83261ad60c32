"""Quantizers: from a float weight or bias to the integers that a file stores. numpy only.

A weight method is one file in this folder and one line in `WEIGHT_METHODS`; third parties register through the entry
point group `edgeq.weight_methods`. It is a pure function, and may not change what it is given:

    def method(weight: np.ndarray, scheme: Scheme, statistics: Statistics) -> QuantizedWeight
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import InputError
from edgeq.quantizers.weight import QuantizedWeight
from edgeq.registry import load_entry
from edgeq.schemes import Scheme

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = [
    "LEAST_SQUARE",
    "ROUND",
    "WEIGHT_METHODS",
    "QuantizedWeight",
    "Statistics",
    "WeightMethod",
    "get_weight_method",
]

Statistics: TypeAlias = Mapping[str, np.ndarray]
"""What calibration saw of the layer's input, by name: `second_moments` is `X^T X`, `channel_maxima` the largest
magnitude of every channel. Empty where nothing was collected; a method says which it wants."""

WeightMethod: TypeAlias = Callable[[np.ndarray, Scheme, Statistics], QuantizedWeight]

ROUND = "round"
"""The method that needs no statistics."""

LEAST_SQUARE = "least-square"
"""Rounds on the scales that lose the least of each channel."""

WEIGHT_METHODS: dict[str, str] = {
    ROUND: "edgeq.quantizers.round_nearest:round_nearest",
    LEAST_SQUARE: "edgeq.quantizers.least_square:least_square",
    "clip": "edgeq.quantizers.clipping:clip",
    "gptq": "edgeq.quantizers.gptq:gptq",
    "gptq-act-order": "edgeq.quantizers.gptq:gptq_act_order",
    "hqq": "edgeq.quantizers.hqq:hqq",
}


def get_weight_method(name: str) -> WeightMethod:
    """Returns the weight method of that name.

    Raises:
        InputError: there is none of that name.
    """
    method = load_entry("weight method", WEIGHT_METHODS, name)
    if not callable(method):
        raise InputError(f"weight method {name!r}: its entry is {type(method).__name__}, wanted a function")
    found: WeightMethod = method
    return found
