"""Which points of a grid are tried: all of them, some drawn without repetition, or some spread by a Sobol sequence."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np

from edgeq.errors import InputError, MissingDependencyError
from edgeq.studying.space import Sample

_LEAST_FIRST = 8
"""An adaptive study draws at least so many trials before it chooses."""

_ATTEMPTS = 16
"""A Sobol sequence of so many times the points is searched for points that differ."""


def draw(lengths: Sequence[int], sample: Sample, trials: int | None, seed: int, most: int) -> list[tuple[int, ...]]:
    """Returns points of a grid, each as one index per axis.

    Args:
        lengths: How many values each axis has.
        sample: How points are chosen.
        trials: How many, for all but `grid`; no more than the grid has are drawn, and for `adaptive` the first of them.
        seed: Draws them; the same seed draws the same points.
        most: The most points of a whole grid.

    Raises:
        InputError: a grid has more, or the number of trials is missing or has no use.
        MissingDependencyError: scipy, which makes Sobol sequences, is not installed.
    """
    total = math.prod(lengths)
    if sample == "grid":
        if trials is not None:
            raise InputError(
                f"`trials` {trials}: a grid has all {total:,} trials; choose `sample` random, sobol or adaptive"
            )
        if total > most:
            raise InputError(
                f"the grid has {total:,} trials, more than {most:,}; choose `sample` random, sobol or adaptive"
            )
        return list(itertools.product(*map(range, lengths)))
    if trials is None:
        raise InputError(f"`sample` {sample}: wanted the number of `trials`; the space has {total:,}")
    if trials >= total <= most:
        return list(itertools.product(*map(range, lengths)))
    if sample == "adaptive":
        trials = min(trials, max(_LEAST_FIRST, math.ceil(trials / 3)))
    if sample != "sobol":
        chosen = random.Random(seed).sample(range(total), trials)  # noqa: S311 - no secret
        return [tuple(int(each) for each in np.unravel_index(number, tuple(lengths))) for number in chosen]
    return _sobol(lengths, trials, seed)


def _sobol(lengths: Sequence[int], trials: int, seed: int) -> list[tuple[int, ...]]:
    """Returns points of a scrambled Sobol sequence, without those that fall on one another."""
    if importlib.util.find_spec("scipy") is None:
        raise MissingDependencyError("scipy", "study", "A Sobol sequence")
    from scipy.stats import qmc

    found: dict[tuple[int, ...], None] = {}
    sampler = qmc.Sobol(len(lengths), scramble=True, rng=seed)
    power = max(1, math.ceil(math.log2(trials)))
    for _ in range(_ATTEMPTS):
        for point in sampler.random(2**power):
            found.setdefault(tuple(int(value * length) for value, length in zip(point, lengths, strict=True)))
            if len(found) == trials:
                return list(found)
    return list(found)
