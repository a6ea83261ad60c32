"""Whole benchmarks on boards of files: what artifacts are told to have cost, and what made a run unstable.

The boards are test doubles: the sessions themselves write what a board's sensors would show.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from benchmarks.json_results import bench_jobs
from edgeq.errors import EngineError
from edgeq.exporting.artifact import Postprocessing
from edgeq.measurement.telemetry import Observations, Window
from edgeq.measurement.timed_file import Job, Sampling, TimedFile
from edgeq.results.environment import Environment
from edgeq.results.serialization import to_json
from edgeq.runtimes.answers import Power, Series
from edgeq.runtimes.child import LOCAL_RUNNER
from tests.boards import jetson_orin_nano, raspberry_pi_5, x86_laptop
from tests.test_order import ROOT
from tests.tiny import save_conv_net

pytestmark = pytest.mark.usefixtures("warm_runners")

QUICK = Sampling(
    warmup_runs=2, warmup_s=0, min_runs=8, min_s=0.01, max_s=20, round_runs=2, round_s=0, timeout_s=60, idle_s=0.2
)
RAPL = "sys/class/powercap/intel-rapl:0"


def on_board(root: Path, body: str = "pass", *lines: str) -> list[str]:
    """Returns the command of a runner on a tree of files; before each inference `body` runs, with `root` and `name`."""
    script = [
        "import os, sys, time",
        "from pathlib import Path",
        "from edgeq.runtimes import onnxruntime as module",
        f"root = Path({str(root)!r})",
        "plain = module.OnnxRuntimeSession._run",
        "def write(path, content): (root / path).write_text(f'{content}\\n')",
        "def add(path, number, wrap=1 << 60): write(path, (int((root / path).read_text()) + number) % wrap)",
        "def _run(self, inputs):",
        "    name = self.artifact.name",
        f"    {body}",
        "    return plain(self, inputs)",
        "module.OnnxRuntimeSession._run = _run",
        *lines,
        "from edgeq.runtimes.runner import main",
        "main(root)",
    ]
    return [sys.executable, "-c", "\n".join(script)]


@pytest.fixture
def jobs(tmp_path):
    return [Job(save_conv_net(tmp_path / name), "onnxruntime") for name in ("frugal.onnx", "greedy.onnx")]


def test_each_artifact_pays_for_its_own_runs(jobs, tmp_path):
    """The double's counters begin again at zero every eight greedy runs."""
    root = x86_laptop(tmp_path / "laptop")
    for zone in ("intel-rapl:0", "intel-rapl:0:2"):
        (root / f"sys/class/powercap/{zone}/max_energy_range_uj").write_text("50000\n")
        (root / f"sys/class/powercap/{zone}/energy_uj").write_text("49000\n")
    body = (
        f"add('{RAPL}/energy_uj', 6000 if name == 'greedy.onnx' else 2000, 50000); "
        f"add('{RAPL}:2/energy_uj', 500, 50000)"
    )
    frugal, greedy = bench_jobs(jobs, threads=1, sampling=QUICK, runner=on_board(root, body))
    assert frugal["energy"]["j_per_image"] == pytest.approx(0.0025)
    assert greedy["energy"]["j_per_image"] == pytest.approx(0.0065)
    for result in (frugal, greedy):
        energy = result["energy"]
        assert energy["source"] == "RAPL package-0 + dram"
        assert 0 < energy["window_s"] >= sum(result["samples_ns"]) / 1e9
        assert energy["watts"] * energy["window_s"] == pytest.approx(energy["j_per_image"] * result["runs"])
        # Nothing counted while nothing ran.
        assert (energy["idle_watts"], energy["idle_share"]) == (0, 0)
        assert result["stable"] or all("drifted" in reason for reason in result["unstable_reasons"])


def test_the_idle_share_of_a_machine_that_draws_the_same_all_the_time(jobs, tmp_path):
    """A double of the counter: ten watts by the clock, whatever runs; so all of the energy is the idle machine's."""
    double = (
        "from edgeq.sensors import rapl",
        "rapl._zones = lambda _root: [('package-0', "
        "{'energy_uj': time.monotonic_ns() // 100 % 10**7, 'max_energy_range_uj': 10**7})]",
    )
    runner = on_board(tmp_path, "time.sleep(0.02)", *double)
    (result,) = bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=runner)
    assert result["energy"]["idle_watts"] == pytest.approx(10, rel=0.5)
    assert result["energy"]["watts"] == pytest.approx(10, rel=0.5)
    assert 0.4 < result["energy"]["idle_share"] < 2.5


def test_rails_are_read_inside_an_artifacts_own_turns(jobs, tmp_path):
    """The double's current is that of whose run it is; it changes in the untimed run before each turn."""
    root = jetson_orin_nano(tmp_path / "jetson")
    current = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"
    body = f"write('{current}', 2000 if name == 'greedy.onnx' else 1000); time.sleep(0.02)"
    sampling = Sampling(warmup_runs=1, warmup_s=0, min_runs=4, min_s=2.4, round_runs=2, round_s=0.4, idle_s=0.1)
    frugal, greedy = bench_jobs(jobs, threads=1, sampling=sampling, runner=on_board(root, body))
    for result, watts in ((frugal, 5.04), (greedy, 10.08)):
        energy = result["energy"]
        assert energy["source"] == "INA3221 VDD_IN"
        assert energy["watts"] == pytest.approx(watts)
        assert energy["j_per_image"] == pytest.approx(watts * energy["window_s"] / result["runs"])
        assert energy["idle_watts"] == pytest.approx(6.048)
    sensors = greedy["sensors"]
    assert sensors["before"]["power_mode"] == sensors["after"]["power_mode"] == "15W"
    assert sensors["before"]["rapl"] is None
    assert all("ina3221" in entry for entry in sensors["series"])
    assert sensors["sampler_cpu_share"] > 0
    assert greedy["load_average"] == {"before": [0.52, 0.40, 0.31], "after": [0.52, 0.40, 0.31]}


def test_a_clock_that_moves_makes_a_run_unstable(jobs, tmp_path):
    root = raspberry_pi_5(tmp_path / "pi")
    clock = "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq"
    body = f"name == 'greedy.onnx' and write('{clock}', 1500000); name == 'frugal.onnx' and write('{clock}', 2400000)"
    frugal, greedy = bench_jobs(jobs, threads=1, sampling=QUICK, runner=on_board(root, body))
    # In its own turns each ran at one clock.
    assert not any("clock" in reason for result in (frugal, greedy) for reason in result["unstable_reasons"])

    body = f"write('{clock}', 1500000 + 1000 * (time.monotonic_ns() % 900000))"
    (moved,) = bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=on_board(root, body))
    assert moved["stable"] is False
    (reason,) = [reason for reason in moved["unstable_reasons"] if "clock" in reason]
    assert reason.startswith("CPU clock moved between ") and reason.endswith(" MHz (governor ondemand)")


def test_throttling_makes_every_artifact_of_the_run_unstable(jobs, tmp_path):
    root = x86_laptop(tmp_path / "laptop")
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    # Counters that rose before the timed runs, while engines loaded and warmed up, do not count.
    body = f"name == 'greedy.onnx' and add('{counter}', 1)"
    sampling = Sampling(warmup_runs=5, warmup_s=0, min_runs=4, min_s=0, round_runs=2, round_s=0, idle_s=0)
    frugal, greedy = bench_jobs(jobs, threads=1, sampling=sampling, runner=on_board(root, body))
    for result in (frugal, greedy):
        assert result["stable"] is False
        assert "throttled against heat: core events 6" in result["unstable_reasons"]  # two turns of three runs


def test_a_watcher_that_dies_costs_the_sensors_only(jobs, tmp_path, caplog):
    double = ("from edgeq.runtimes import watcher", "watcher.read_sensors = lambda _root: sys.exit('out of juice')")
    runner = on_board(x86_laptop(tmp_path / "laptop"), "pass", *double)
    (result,) = bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=runner)
    assert result["sensors"] is result["energy"] is None
    assert result["load_average"] == {"before": None, "after": None}
    assert result["latency_ms"]["p50"] > 0
    (record,) = [record for record in caplog.records if "no sensors from here on" in record.message]
    assert "out of juice" in record.message


@pytest.mark.parametrize(
    "answer",
    ["{'clock_mhz': 'fast'}", "{'energy_j': -1}", "{'energy_j': [1]}", "{'window_ns': [1]}", "{'window_ns': 0}"],
)
def test_answers_of_another_form_are_an_error(jobs, tmp_path, answer):
    double = (
        "from edgeq.runtimes import runner",
        "differences = runner.Runner._differences",
        f"runner.Runner._differences = lambda self, *meters: {{**differences(self, *meters), **{answer}}}",
    )
    with pytest.raises(
        EngineError, match=r"answer\.(clock_mhz|energy_j|window_ns).* is .*, wanted .* the answer of a runner to 'run'"
    ):
        bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=on_board(tmp_path, "pass", *double))


def test_a_machine_without_sensors_has_none(jobs, tmp_path):
    (result,) = bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=on_board(tmp_path / "none"))
    assert result["sensors"] is result["energy"] is None


def test_an_emulated_cpu_is_not_watched(jobs, tmp_path):
    emulated = (
        "import dataclasses, edgeq.runtimes.base as base",
        "real = base.read_machine",
        "base.read_machine = lambda: dataclasses.replace(real(), emulated=True)",
    )
    runner = on_board(x86_laptop(tmp_path / "laptop"), "pass", *emulated)
    (result,) = bench_jobs(jobs[:1], threads=1, sampling=QUICK, runner=runner)
    assert (result["stable"], result["unstable_reasons"], result["energy"]) == (None, [], None)
    assert result["preprocess_ms"] is result["postprocess_ms"] is None
    assert (result["sensors"]["after"], result["sensors"]["series"]) == (None, [])


def rails(*powers: tuple[int, float], idle: float | None = 2.0) -> Observations:
    """Readings that take a millisecond each."""
    series = Series(power=[(when, when + 10**6, watts) for when, watts in powers])
    return Observations(power=Power("rails", "INA3221 VDD_IN", idle), series=series)


def test_readings_between_turns_belong_to_nobody():
    seconds = 10**9
    # The eleventh begins within the turn and ends after it; those that follow are of other turns.
    observed = rails(*((number * seconds // 11, 5.0 if number < 10 else 1000.0) for number in range(25)))
    energy = observed.energy([Window(0, 9095 * seconds // 10000, None)], images=10)
    assert to_json(energy) == {
        "j_per_image": pytest.approx(0.45475),
        "idle_share": pytest.approx(0.4),
        "source": "INA3221 VDD_IN",
        "window_s": pytest.approx(0.9095),
        "watts": pytest.approx(5.0),
        "idle_watts": 2.0,
    }


@pytest.mark.parametrize(
    ("observed", "windows", "images"),
    [
        (Observations(), [Window(0, 10**9, 5.0)], 10),  # the counters of a machine whose watcher died
        (rails((1, 5.0)), [Window(0, 10**9, None)], 10),  # too few readings
        (rails(*((number, 5.0) for number in range(20))), [], 0),
        (Observations(power=Power("rapl", "RAPL package-0", 1.0)), [Window(0, 9, None)], 1),
        (Observations(power=Power("rapl", "RAPL package-0", 1.0)), [Window(0, 9, 0.0)], 1),
    ],
)
def test_energy_that_is_not_known(observed, windows, images):
    assert observed.energy(windows, images) is None


def test_idle_power_that_is_not_known_leaves_the_energy():
    energy = rails(*((number, 5.0) for number in range(20)), idle=None).energy([Window(0, 10**9, None)], images=5)
    assert energy is not None
    assert (energy.idle_share, energy.idle_watts) == (None, None)
    assert energy.j_per_image == pytest.approx(1)


@pytest.mark.parametrize(("batch", "images"), [(1, 3), (4, 12), (None, 3)])
def test_a_batch_is_as_many_images(tmp_path, batch, images):
    artifact = save_conv_net(tmp_path / "net.onnx")
    spec = dataclasses.replace(artifact.inputs[0], shape=(batch, 3, 16, 16))
    job = Job(dataclasses.replace(artifact, inputs=(spec,)), "onnxruntime")
    row = TimedFile(job, None, None, Environment(), rounds_ns=[[1, 2], [3]])  # type: ignore[arg-type]
    assert row.images == images


def test_pinned_cpus_bound_the_default_of_threads(jobs):
    (result,) = bench_jobs(jobs[:1], cpus=[0], sampling=QUICK, runner=LOCAL_RUNNER)
    assert result["environment"]["threads"] == 1
    assert result["environment"]["usable_cpus"] == 1


def broken(outputs, post, placement):
    """A decoder of the user's."""
    raise ZeroDivisionError("in a decoder")


def test_a_decoder_that_fails_costs_its_time_only(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("EDGEQ_DECODERS", "tests.measurement.test_telemetry:broken")
    artifact = dataclasses.replace(
        save_conv_net(tmp_path / "net.onnx"), postprocessing=Postprocessing("tests.measurement.test_telemetry:broken")
    ).save()
    (result,) = bench_jobs([Job(artifact, "onnxruntime")], threads=1, sampling=QUICK)
    assert result["latency_ms"]["p50"] > 0
    assert result["preprocess_ms"]["p50"] > 0
    assert result["postprocess_ms"] is None
    assert "ZeroDivisionError: in a decoder" in caplog.text
