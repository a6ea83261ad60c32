"""How sure it is that a file is faster: the interval of its time as a multiple of FP32's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgeq.reporting.comparison import Comparison
from edgeq.runtimes.latency import interleaved_ratio
from edgeq.tasks.resampling import CONFIDENCE, RESAMPLES

# Fewer rounds than this say nothing about how the ratio varies.
_MIN_ROUNDS = 5
_SEED = 21


class RatioInterval(NamedTuple):
    """The 95 % interval of a time as a multiple of FP32's, by a bootstrap over the rounds that it comes from."""

    low: float
    high: float
    rounds: int


def ratio_interval(comparison: Comparison) -> RatioInterval | None:
    """Returns the interval of a file's `ratio_to_fp32`; `None` if the results lack both files' rounds of one run."""
    rounds = _paired_rounds(comparison)
    if rounds is None:
        return None
    rng = np.random.default_rng(_SEED)
    drawn = np.median(rounds[rng.integers(0, len(rounds), (RESAMPLES, len(rounds)))], axis=1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return RatioInterval(float(low), float(high), len(rounds))


def _paired_rounds(comparison: Comparison) -> np.ndarray | None:
    """Returns the ratio of each round `(rounds,)`."""
    timing = comparison.row.timing
    reference = None if comparison.reference is None else comparison.reference.timing
    if timing is None or timing.ratio_to_fp32 is None or reference is None:
        return None
    now, before = timing.rounds_ns, reference.rounds_ns
    if len(now) != len(before) or len(now) < _MIN_ROUNDS:
        return None
    # Of another run, the rounds would not lead to the ratio that bench wrote.
    if not np.isclose(interleaved_ratio(now, before), timing.ratio_to_fp32, rtol=1e-9):
        return None
    return np.array([np.median(taken) / np.median(other) for taken, other in zip(now, before, strict=True)])
