"""The paired percentile bootstrap: images are drawn with replacement, and every file is scored on the same draws.

The middle 95 % of 1,000 such scores are an interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
The draws repeat from run to run.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CONFIDENCE = 0.95

_SEED = 20


@functools.lru_cache(maxsize=8)
def draws(images: int) -> NDArray[np.int32]:
    """Returns how often each image is in each choice, `(images, 1 + RESAMPLES)`; the first choice is all of them."""
    drawn = np.random.default_rng(_SEED).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    return np.concatenate([np.ones((1, images), np.int64), drawn]).T.astype(np.int32)


def mean_over_draws(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean of one value per image `(N,)` over each choice of the images `(1 + RESAMPLES,)`."""
    mean: NDArray[np.float64] = values @ draws(len(values)) / len(values)
    return mean


def mean_present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean over the classes `(C, ...)` that have a value; NaN where all are NaN."""
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(present, values, 0).sum(axis=0) / present.sum(axis=0)
    return mean


def number_of(value: float | NDArray[np.float64]) -> float | None:
    """Returns a number as results hold it: `None` for NaN."""
    return None if np.isnan(value) else float(value)


def interval(values: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """Returns the ends of the middle `CONFIDENCE` of values; none if all are NaN."""
    present = values[~np.isnan(values)]
    if not len(present):
        return None, None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(present, [tail, 100 - tail])
    return float(low), float(high)
