"""Statistics of latency samples, and what may be said from how many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.errors import InputError
from edgeq.results.measurement import MAX_DRIFT

# The fewest queries from which MLPerf Inference lets a percentile be stated (early stopping, 99 % confidence).
MIN_SAMPLES_P90 = 64
MIN_SAMPLES_P99 = 662
# Beyond this a run's numbers describe no steady state, as beyond `MAX_DRIFT`: how far its slowest clock was below its
# fastest.
MAX_CLOCK_CHANGE = 0.05

_NS_PER_MS = 1e6
_NS_PER_S = 1e9


@dataclass(frozen=True)
class Latency:
    """Statistics of one run, in milliseconds.

    Attributes:
        runs: Number of samples.
        p50: Median.
        p90: The sample that 90 % do not exceed (nearest rank), or `None` from fewer than 64 samples.
        p99: The same for 99 %, or `None` from fewer than 662 samples.
        mean: Arithmetic mean.
        min: Smallest sample.
        max: Largest sample.
        mad: Median absolute deviation from the median: the spread, which single outliers do not move.
        throughput_per_s: Runs a second, one after another.
        drift: Median of the last third of the samples over that of the first third, minus 1.
    """

    runs: int
    p50: float
    p90: float | None
    p99: float | None
    mean: float
    min: float
    max: float
    mad: float
    throughput_per_s: float
    drift: float


def summarize(samples_ns: Sequence[int]) -> Latency:
    """Returns the statistics of samples in nanoseconds, given in the order they were taken.

    Raises:
        InputError: there are none.
    """
    if not samples_ns:
        raise InputError("no latency samples; wanted at least one run")
    # A GPU's own clock is coarse: what it counts as 0 took less than a tick.
    samples = np.maximum(np.asarray(samples_ns, dtype=np.float64), 1)
    ordered = np.sort(samples)
    median = float(np.median(samples))
    third = max(1, len(samples) // 3)
    return Latency(
        runs=len(samples),
        p50=median / _NS_PER_MS,
        p90=_percentile(ordered, 90) if len(samples) >= MIN_SAMPLES_P90 else None,
        p99=_percentile(ordered, 99) if len(samples) >= MIN_SAMPLES_P99 else None,
        mean=float(samples.mean()) / _NS_PER_MS,
        min=float(ordered[0]) / _NS_PER_MS,
        max=float(ordered[-1]) / _NS_PER_MS,
        mad=float(np.median(np.abs(samples - median))) / _NS_PER_MS,
        throughput_per_s=len(samples) * _NS_PER_S / float(samples.sum()),
        drift=float(np.median(samples[-third:]) / np.median(samples[:third])) - 1,
    )


def drift_reasons(drift: float) -> list[str]:
    """Returns why a run that drifted like this was no steady state; nothing if it was."""
    return [f"latency drifted by {drift:+.1%}"] if abs(drift) > MAX_DRIFT else []


def clock_reasons(clocks_mhz: Sequence[float], name: str) -> list[str]:
    """Returns why a run at these clocks was no steady state; nothing if it was.

    Args:
        clocks_mhz: Clocks in the course of the run.
        name: What they are the clock of ("CPU").
    """
    if not clocks_mhz:
        return []
    slowest, fastest = min(clocks_mhz), max(clocks_mhz)
    if fastest - slowest <= MAX_CLOCK_CHANGE * fastest:
        return []
    return [f"{name} clock moved between {slowest:.0f} and {fastest:.0f} MHz"]


def interleaved_ratio(rounds_ns: Sequence[Sequence[int]], reference_ns: Sequence[Sequence[int]]) -> float:
    """Returns how many times as long something takes as a reference that was timed in turns with it.

    The two samples of a round lie a moment apart, so what slows the machine for longer than a round slows both. The
    median over the rounds drops those in which only one was hit.

    Args:
        rounds_ns: Samples in nanoseconds, round by round.
        reference_ns: Those of the reference, in the same rounds.
    """
    pairs = zip(rounds_ns, reference_ns, strict=True)
    return float(np.median([np.median(taken) / np.median(reference) for taken, reference in pairs]))


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the median of values and its 95 % interval, which asks nothing of their distribution.

    The ends are the order statistics between which the median of all rounds that could have been measured lies with
    that probability, by the binomial distribution in its normal approximation ("Practical Nonparametric Statistics",
    Conover, 1999, section 3.2); of fewer than six values they are the least and the largest.

    Args:
        values: At least one.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    reach = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - reach) - 1)
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])


def _percentile(ordered: np.ndarray, percent: int) -> float:
    rank = math.ceil(percent * len(ordered) / 100)
    return float(ordered[rank - 1]) / _NS_PER_MS
