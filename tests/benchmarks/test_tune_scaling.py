"""The simulation of a search on many workers: what it may not get wrong, whatever the costs are."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scaled_search, sensitivity, tune_scaling
from benchmarks.cluster_simulation import Costs, Simulation
from benchmarks.scaled_search import screened
from edgeq.calibration.source import CalibrationSource
from tests.tuning.cluster_case import open_case

FREE = Costs(0.0, 0.0, 0.0, 0.0, 0, 0, math.inf)


def test_one_worker_alone_takes_the_sum_of_its_work():
    costs = dataclasses.replace(FREE, open_s=0.5, image_s=0.01)
    found = Simulation(costs, 6, [32, 32, 64], 1).run()
    assert found.seconds == pytest.approx(6 * (3 * 0.5 + 128 * 0.01))
    assert found.main_s == found.sending_s == 0


def test_without_costs_of_the_main_process_work_is_shared_evenly():
    costs = dataclasses.replace(FREE, image_s=0.01)
    alone, shared = (Simulation(costs, 64, [32, 32], workers).run().seconds for workers in (1, 8))
    assert shared == pytest.approx(alone / 8)


def test_the_main_process_and_the_network_bound_it():
    writing = dataclasses.replace(FREE, write_s=0.1, image_s=1e-4)
    assert Simulation(writing, 100, [32], 512).run().seconds == pytest.approx(10, rel=0.01)
    sending = dataclasses.replace(FREE, file_bytes=1000, bytes_per_s=1e4)
    assert Simulation(sending, 1024, [32], 512).run().seconds == pytest.approx(1024 * 0.1)


def test_workers_are_measured_and_larger_clusters_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr(scaled_search, "SPIN_S", 0.05)
    monkeypatch.setattr(tune_scaling, "MANY", ((200, 64),))
    small = open_case(tmp_path, "x86")
    source = CalibrationSource(small.subject.ranges)
    case = sensitivity.Case(small.subject, small.task, source, tmp_path / "trials.sqlite")
    runs = ((scaled_search.ONE, 1), (scaled_search.LOCAL, 1))
    lines = tune_scaling.run("resnet20", screened(case, tmp_path, 32), tmp_path, runs)
    measured = [line for line in lines if line.endswith("| yes |")]
    assert [line.split(" | ")[0] for line in measured] == ["| one process", "| 1 local processes"]
    assert sum(line.startswith("| 200 trials") for line in lines) == len(tune_scaling.SIMULATED)


@settings(max_examples=30)
@given(
    st.integers(1, 40), st.lists(st.integers(1, 200), min_size=1, max_size=3), st.integers(1, 60),
    st.floats(0, 0.2), st.floats(0, 0.5),
)  # fmt: skip
def test_no_run_is_faster_than_its_parts(trials, stages, workers, write_s, open_s):
    costs = Costs(write_s, 0.01, open_s, 0.002, 100_000, 1000, 1e6)
    found = Simulation(costs, trials, stages, workers).run()
    assert found.main_s == pytest.approx(trials * (write_s + 0.01 * len(stages)))
    assert found.seconds >= found.main_s - 1e-9
    assert found.seconds >= found.sending_s - 1e-9
    assert found.seconds >= found.workers_s / workers - 1e-9
