"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.runtimes.latency import clock_reasons, drift_reasons, interleaved_ratio, summarize

MS = 1_000_000


def test_golden_numbers():
    """1..100 ms, shuffled: 37 generates every residue of the prime 101."""
    samples = [37 * index % 101 * MS for index in range(1, 101)]
    latency = summarize(samples)
    assert latency.runs == 100
    assert latency.p50 == pytest.approx(50.5)
    assert latency.p90 == pytest.approx(90)
    assert latency.p99 is None
    assert latency.mean == pytest.approx(50.5)
    assert (latency.min, latency.max) == (1, 100)
    assert latency.mad == pytest.approx(25)
    assert latency.throughput_per_s == pytest.approx(100 / 5.05)


@pytest.mark.parametrize(
    ("runs", "has_p90", "has_p99"),
    [(1, False, False), (63, False, False), (64, True, False), (661, True, False), (662, True, True)],
)
def test_a_percentile_is_stated_only_from_enough_samples(runs, has_p90, has_p99):
    latency = summarize([MS] * runs)
    assert (latency.p90 is not None, latency.p99 is not None) == (has_p90, has_p99)


def test_percentiles_are_samples_that_occurred():
    latency = summarize([value * MS for value in range(1, 1001)])
    assert (latency.p90, latency.p99) == (900, 990)


@pytest.mark.parametrize(("last", "stable"), [(1.0, True), (1.04, True), (1.06, False), (0.94, False), (0.96, True)])
def test_a_run_that_drifts_by_more_than_five_percent_is_not_stable(last, stable):
    samples = [100_000] * 30 + [100_000] * 30 + [round(100_000 * last)] * 30
    latency = summarize(samples)
    assert latency.drift == pytest.approx(last - 1)
    assert drift_reasons(latency.drift) == ([] if stable else [f"latency drifted by {last - 1:+.1%}"])


@pytest.mark.parametrize(
    ("clocks", "reasons"),
    [
        ([], []),
        ([2400.0], []),
        ([2400.0, 2290.0, 2400.0], []),
        ([2400.0, 2270.0, 2400.0], ["CPU clock moved between 2270 and 2400 MHz"]),
        ([1000.0, 2000.0], ["CPU clock moved between 1000 and 2000 MHz"]),
    ],
)
def test_a_clock_that_moves_by_more_than_five_percent_is_a_reason(clocks, reasons):
    assert clock_reasons(clocks, "CPU") == reasons


def test_single_outliers_move_neither_spread_nor_stability():
    calm = [MS + offset for offset in range(-50, 50)] * 3
    disturbed = [*calm[:-1], 900 * MS]
    assert summarize(disturbed).mad == pytest.approx(summarize(calm).mad, rel=0.02)
    assert drift_reasons(summarize(disturbed).drift) == []


def test_no_samples_are_refused():
    with pytest.raises(InputError, match="no latency samples"):
        summarize([])


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=800))
def test_agrees_with_numpy_and_is_ordered(samples):
    latency = summarize(samples)
    taken = np.asarray(samples) / MS
    assert latency.p50 == pytest.approx(np.median(taken))
    assert latency.mean == pytest.approx(taken.mean())
    if latency.p90 is not None:
        assert latency.p90 == pytest.approx(np.percentile(taken, 90, method="inverted_cdf"))
    stated = [value for value in (latency.min, latency.p50, latency.p90, latency.p99, latency.max) if value is not None]
    assert stated == sorted(stated)
    assert all(value is None or np.isfinite(value) for value in dataclasses.asdict(latency).values())


@given(st.lists(st.integers(10**3, 10**8), min_size=1, max_size=30), st.integers(2, 9))
def test_the_interleaved_ratio_is_free_of_what_slows_both(slowness, factor):
    """The machine's speed changes from round to round, by orders of magnitude: the ratio does not."""
    reference = [[speed, speed, speed] for speed in slowness]
    rounds = [[factor * speed] * 5 for speed in slowness]
    assert interleaved_ratio(rounds, reference) == pytest.approx(factor)
