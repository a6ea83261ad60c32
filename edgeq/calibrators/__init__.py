"""Calibration: `Histogram` counts activations, a method turns each into a `Range`, `Ranges` keeps all of them.

A method is one file in this folder and one line in `METHODS`; third parties register through the entry point group
`edgeq.methods`. It is a pure function of a histogram, so that one pass over the images serves all methods:

    def method(histogram: Histogram, **options: float) -> Range

`BEST` is no such function: it chooses among their ranges by what the model's layers make of them on images
(`edgeq.calibration.layerwise`).
"""

from __future__ import annotations

from collections.abc import Callable

from edgeq.calibrators.grid import Grid, Range
from edgeq.calibrators.histogram import Histogram, HistogramBuilder
from edgeq.errors import InputError
from edgeq.registry import load_entry

__all__ = ["BEST", "METHODS", "Grid", "Histogram", "HistogramBuilder", "Method", "Range", "get_method"]

Method = Callable[..., Range]

BEST = "best"
"""The method that needs images: `edgeq calibrate MODEL IMAGES --method best`."""

METHODS: dict[str, str] = {
    "entropy": "edgeq.calibrators.entropy:entropy",
    "lp": "edgeq.calibrators.least_error:lp",
    "minmax": "edgeq.calibrators.minmax:minmax",
    "mse": "edgeq.calibrators.least_error:mse",
    "percentile": "edgeq.calibrators.percentile:percentile",
}


def get_method(name: str) -> Method:
    """Returns the calibration method of that name.

    Raises:
        InputError: there is none of that name, or it is `best`, for which a histogram does not suffice.
    """
    if name == BEST:
        raise InputError(
            f"method {BEST} measures the model's layers on images, and here are histograms alone; run `edgeq calibrate "
            f"MODEL IMAGES --method {BEST}`, or choose another method"
        )
    method: Method = load_entry("method", METHODS, name)
    return method
