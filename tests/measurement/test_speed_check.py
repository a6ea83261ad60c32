from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from edgeq.exporting.artifact import Artifact
from edgeq.machine import read_machine
from edgeq.measurement import speed_check
from edgeq.measurement.speed_check import measure_speed
from edgeq.measurement.timed_file import Sampling
from edgeq.results.environment import Environment
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.latency import median_interval
from tests.tiny import save_conv_net

QUICK = Sampling(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0, max_s=5, round_runs=2, round_s=0, idle_s=0)


def measured(milliseconds: list[float]) -> BenchResult:
    """Returns a result of rounds of two runs each."""
    samples = [round(each * 1e6) for value in milliseconds for each in (value, value)]
    return BenchResult(
        artifact="a", digest="", source_digest="", target="x86", runtime="openvino", precision="int8", size_bytes=1,
        runs=len(samples), obtained="measured", environment=Environment(engine="openvino 1"),
        round_runs=(2,) * len(milliseconds), samples_ns=tuple(samples),
    )  # fmt: skip


def verdict(monkeypatch, artifact: Artifact, features: tuple[str, ...], *times: list[float]):
    monkeypatch.setattr(speed_check, "bench_jobs", lambda jobs, **_: [measured(each) for each in times[: len(jobs)]])
    machine = dataclasses.replace(read_machine(), cpu="a CPU", cpu_features=features)
    return measure_speed(dataclasses.replace(artifact, precision="int8"), artifact, "openvino", machine, 1)


STEADY = [10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0, 10.1]


@pytest.mark.parametrize(
    ("int8", "bf16", "features", "recommended"),
    [
        (0.6, 0.9, ("avx2",), "int8"),
        (1.2, 0.9, ("avx2",), "fp32"),
        (1.0, 0.9, ("avx2",), "fp32"),
        (0.6, 0.9, ("avx2", "avx512_bf16"), "int8"),
        (0.6, 0.4, ("avx2", "amx_bf16"), "fp32 computed in bf16"),
        (1.2, 0.9, ("avx2", "avx512_bf16"), "fp32 computed in bf16"),
        (1.2, 1.3, ("avx2", "avx512_bf16"), "fp32"),
    ],
)
def test_the_fastest_of_the_files_is_recommended(monkeypatch, tmp_path, int8, bf16, features, recommended):
    artifact = save_conv_net(tmp_path / "net.onnx")
    wobble = [1, 1.01, 0.99, 1, 1.01, 0.99, 1, 1]
    times = [[value * ratio * by for value, by in zip(STEADY, wobble, strict=True)] for ratio in (int8, bf16)]
    speed = verdict(monkeypatch, artifact, features, STEADY, *times)
    assert speed.recommended == recommended
    assert speed.low <= speed.ratio <= speed.high
    assert speed.ratio == pytest.approx(int8, rel=0.02)
    assert (speed.bf16_ratio is None) == (features == ("avx2",)), "without BF16 in the CPU it is not timed"


def test_a_machine_too_busy_to_tell_recommends_nothing(monkeypatch, tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    noisy = [value * by for value, by in zip(STEADY, [0.6, 1.5, 0.8, 1.4, 0.7, 1.6, 0.9, 1.2], strict=True)]
    assert verdict(monkeypatch, artifact, ("avx2",), STEADY, noisy).recommended == ""


def test_the_same_file_is_never_faster_than_itself_in_real_processes(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    speed = measure_speed(artifact, artifact, "onnxruntime", read_machine(), 1, QUICK)
    assert (speed.runtime, speed.threads, speed.cpu) == ("onnxruntime", 1, read_machine().cpu)
    assert speed.engine.startswith("onnxruntime 1.")
    assert speed.rounds >= 3
    assert 0 < speed.low <= speed.ratio <= speed.high
    saved = dataclasses.replace(artifact, quantization={"speed": dataclasses.asdict(speed)}).save()
    assert Artifact.load(saved.path).quantization_facts.speed == speed
    assert json.loads(artifact.manifest_path.read_text())["quantization"]["speed"]["rounds"] == speed.rounds


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        _, low, high = median_interval(rng.exponential(size=21).tolist())
        held += low <= math.log(2) <= high
    assert held >= 0.95 * 400
    assert median_interval([2.0]) == (2.0, 2.0, 2.0)
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
