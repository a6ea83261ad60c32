"""`edgeq tune --device` over ssh to this machine: times of files and kernels, and what a lost connection leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeq.datasets import open_split
from edgeq.devices.config import Device
from edgeq.errors import DeviceError
from edgeq.machine import read_machine
from edgeq.measurement import kernel_timing, timed_file
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.measurement import BenchResult
from edgeq.tuning import search, search_latency, timing_devices
from edgeq.tuning.search_budget import Budget
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.store import Store
from edgeq.verbs.sensitivity import calibration_of
from edgeq.verbs.tune import TuningFiles, tune_model
from tests.exact import EXACT
from tests.tuning.nets import save_classifier
from tests.tuning.test_sensitivity import Net

TARGET = "x86-ort"
QUICK = Sampling(warmup_runs=1, warmup_s=0.0, min_runs=6, min_s=0.0, round_runs=1, round_s=0.0, idle_s=0.0)

pytestmark = pytest.mark.skipif(read_machine().architecture != "x86_64", reason="this machine is the x86 device")


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    return Net(*save_classifier(tmp_path_factory.mktemp("net"), images=40))


@pytest.fixture(autouse=True)
def quick(monkeypatch, exact_runtime) -> None:
    """Trials run in exact arithmetic; few are made, and they are timed a few times only."""
    monkeypatch.setattr(search, "STEPS", 1)
    monkeypatch.setattr(search_latency, "SAMPLING", QUICK)
    monkeypatch.setattr(timed_file, "_unstable_reasons", lambda *_: [])  # the machine that tests run on may be busy


def tune(net: Net, out: Path, devices: Sequence[Device], *budget: Any) -> TuningFiles:
    options = SearchOptions(runtime=EXACT, threads=1, budget=Budget.of(*budget), unproved=True)
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    return tune_model(net.request, TARGET, data, source, out, options=options, devices=devices)


def test_kernels_and_files_are_timed_on_an_x86_device_and_not_again(loop, net, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEQ_MEASURE", "1")
    monkeypatch.setattr(kernel_timing, "_MOST_DOUBTFUL", 1.0)
    monkeypatch.setattr(kernel_timing, "_ROUNDS", 1)
    monkeypatch.setattr(kernel_timing, "_REPEATS", 0)
    device = loop.device(runtimes=("onnxruntime",))
    result = tune(net, tmp_path, [device], 5.0, None, None, "0.9GB").result
    assert result.devices == ("loop",)
    assert result.timed_in is not None
    assert result.timed_in.startswith("onnxruntime ")
    assert result.time_source.startswith("kernel costs measured on loop (onnxruntime ")
    left = [each for each in result.files if not each.dropped]
    assert all(each.latency.obtained == "measured" and each.memory_bytes for each in left)
    assert not result.chosen.dropped
    loop.assert_empty()

    monkeypatch.setattr(timing_devices, "bench_jobs", None)
    again = tune(net, tmp_path, [device], 5.0, None, None, "0.9GB").result
    assert [each.latency for each in again.files] == [each.latency for each in result.files]
    assert [each.memory_bytes for each in again.files] == [each.memory_bytes for each in result.files]


def test_a_device_that_is_lost_loses_the_batch_in_flight_alone(loop, net, tmp_path, monkeypatch):
    monkeypatch.setattr(search_latency, "BATCH", 1)
    timed: list[str] = []

    def bench(jobs: Sequence[Job], **options: Any) -> list[BenchResult]:
        if len(timed) == 2:
            loop.cut()
        results = bench_jobs(jobs, **options)
        timed.append(results[-1].digest)
        return results

    monkeypatch.setattr(timing_devices, "bench_jobs", bench)
    device = loop.device(runtimes=("onnxruntime",))
    with pytest.raises(DeviceError, match=r"^loop: .*; what was measured before is in the store: rerun") as lost:
        tune(net, tmp_path, [device], 100.0, None, None)
    assert "\n" not in str(lost.value)
    loop.assert_empty()
    before = list(timed)
    assert len(before) == 2
    timed += [""]  # the connection is cut no more
    result = tune(net, tmp_path, [device], 100.0, None, None).result
    assert "scaled to whole files on loop" in result.time_source
    assert not set(before) & set(timed[3:]), "what was timed is in the store"
    with Store(tmp_path / "trials.sqlite") as store:
        rows = [row for row in store.rows() if row.timing is not None]
    assert len(rows) == sum(each.latency.obtained == "measured" for each in result.files)


def test_a_device_that_is_not_there_is_said_before_the_long_work(net, tmp_path, loop):
    device = Device("gone", host="127.0.0.1", port=1)
    with pytest.raises(DeviceError, match="gone: cannot be reached"):
        tune(net, tmp_path, [device], 5.0, None, None)
    assert not (tmp_path / "trials.sqlite").exists()
