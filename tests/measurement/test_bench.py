"""`edgeq bench` on real engines in real processes.

No assertion on a time: only on what is taken, kept and left behind.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.json_results import bench_artifacts, bench_jobs
from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.measurement import benchmark
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.runtimes import default_runtime, is_installed
from edgeq.runtimes.latency import summarize
from edgeq.verbs import on_devices
from tests.runtimes.test_runner import hooked, wait_for_end
from tests.tiny import save_conv_net

QUICK = Sampling(warmup_runs=2, warmup_s=0, min_runs=6, min_s=0.01, max_s=20, round_runs=2, round_s=0, timeout_s=60)
PROMISED = {
    "artifact",
    "target",
    "runtime",
    "precision",
    "size_bytes",
    "latency_ms",
    "peak_rss_bytes",
    "throughput_per_s",
    "environment",
}
needs_openvino = pytest.mark.skipif(not is_installed("openvino"), reason="openvino is not installed")
needs_procfs = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@pytest.fixture
def artifact(tmp_path):
    return save_conv_net(tmp_path / "net.onnx")


def test_a_result_holds_what_is_promised_and_agrees_with_its_samples(artifact):
    (result,) = bench_artifacts([artifact.path], ["onnxruntime"], threads=1, sampling=QUICK)
    assert result.keys() >= PROMISED
    assert {"p50", "p90", "p99", "mean", "min"} <= result["latency_ms"].keys()
    assert (result["artifact"], result["target"], result["precision"]) == ("net.onnx", "x86", "fp32")
    assert result["size_bytes"] == artifact.path.stat().st_size
    assert result["obtained"] == "measured"
    assert result["ratio_to_first"] == 1
    latency = summarize(result["samples_ns"])
    assert result["runs"] == latency.runs >= QUICK.min_runs
    assert result["latency_ms"]["p50"] == latency.p50
    assert result["throughput_per_s"] == latency.throughput_per_s
    assert result["latency_ms"]["p99"] is None or result["runs"] >= 662
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@needs_openvino
def test_every_artifact_runs_in_every_runtime_in_this_order(artifact, tmp_path):
    other = save_conv_net(tmp_path / "other.onnx", precision="int8", depth=3)
    paths, runtimes = [artifact.path, other.manifest_path], ["openvino", "onnxruntime"]
    results = bench_artifacts(paths, runtimes, threads=2, sampling=dataclasses.replace(QUICK, layers=True))
    rows = [(result["artifact"], result["runtime"], result["precision"]) for result in results]
    assert rows == [
        ("net.onnx", "openvino", "fp32"),
        ("net.onnx", "onnxruntime", "fp32"),
        ("other.onnx", "openvino", "int8"),
        ("other.onnx", "onnxruntime", "int8"),
    ]
    assert all(result["environment"]["engine"].startswith(result["runtime"]) for result in results)
    assert {result["environment"]["threads"] for result in results} == {2}
    for result in results:
        layers = result["layers"]["layers"]
        assert result["layers"]["runs"] >= 5
        assert sum("Conv" in layer["kind"] for layer in layers) == (3 if result["artifact"] == "other.onnx" else 2)
        assert {layer["precision"] for layer in layers if "Conv" in layer["kind"]} <= {"fp32", "bf16"}
        assert all(layer["ms"] >= 0 for layer in layers)
    assert result["layers"]["profiler"] == "ONNX Runtime's profiler"


@needs_openvino
def test_compute_precisions_are_rows_of_their_own(artifact):
    f32, bf16 = bench_artifacts([artifact.path], ["openvino"], compute_precisions=["f32", "bf16"], sampling=QUICK)
    assert f32["environment"]["compute_precision"] == "f32"
    if "amx_bf16" in f32["environment"]["cpu_features"]:
        assert bf16["environment"]["compute_precision"] == "bf16"


@needs_openvino
def test_throughput_counts_every_request_of_a_run(artifact):
    (result,) = bench_jobs([Job(artifact, "openvino", hint="throughput")], threads=2, sampling=QUICK)
    requests, seconds = result["environment"]["requests"], sum(result["samples_ns"]) / 1e9
    assert result["throughput_per_s"] == pytest.approx(requests * result["runs"] / seconds)


def test_the_default_runtime_is_that_of_the_target(artifact):
    (result,) = bench_artifacts([artifact.manifest_path], sampling=QUICK)
    assert result["runtime"] == default_runtime(artifact)


def test_jobs_take_turns_and_nothing_else_runs_meanwhile(artifact, tmp_path):
    """Each process writes when it was in an inference; the clock is one for all processes."""
    log = tmp_path / "log"
    body = f"open({str(log)!r}, 'a').write(f'{{os.getpid()}} {{time.monotonic_ns()}}\\n')"
    jobs = [Job(artifact, "onnxruntime")] * 3
    results = bench_jobs(jobs, threads=1, sampling=QUICK, runner=hooked(body))
    calls = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    assert calls == sorted(calls, key=lambda call: call[1])
    turns = [(pid, len(list(group))) for pid, group in itertools.groupby(pid for pid, _ in calls)]
    first, second, third = (pid for pid, _ in turns[:3])
    assert len({first, second, third}) == 3
    assert [pid for pid, _ in turns] == [first, second, third] * (len(turns) // 3)
    # The first inference of each, then its warm-up, then rounds of one untimed and two timed ones, or more.
    assert [runs for _, runs in turns[:6]] == [1, 1, 1, 2, 2, 2]
    assert {runs for _, runs in turns[6:]} == {3}
    assert [result["runs"] for result in results] == [2 * (len(turns) // 3 - 2)] * 3


def test_ratios_are_taken_round_by_round(artifact):
    jobs = [Job(artifact, "onnxruntime")] * 2
    first, second = bench_jobs(jobs, threads=1, sampling=QUICK)
    pairs = zip(np.reshape(second["samples_ns"], (-1, 2)), np.reshape(first["samples_ns"], (-1, 2)), strict=True)
    assert second["ratio_to_first"] == pytest.approx(
        np.median([taken.mean() / reference.mean() for taken, reference in pairs])
    )


def test_a_slow_artifact_stops_at_its_maximum(artifact):
    sampling = Sampling(warmup_runs=1, warmup_s=0, min_runs=10_000, min_s=0, max_s=0.2, round_runs=2, round_s=0)
    (result,) = bench_jobs(
        [Job(artifact, "onnxruntime")], threads=1, sampling=sampling, runner=hooked("time.sleep(0.02)")
    )
    assert sum(result["samples_ns"]) >= 0.2e9
    assert result["runs"] <= 12


def test_an_emulated_cpu_gives_no_times(artifact):
    patch = (
        "runs[1:] and sys.exit('timed on an emulated CPU')\n"
        "    import dataclasses, edgeq.runtimes.base as base\n"
        "    real = base.read_machine\n"
        "    base.read_machine = lambda: dataclasses.replace(real(), emulated=True)"
    )
    (result,) = bench_jobs([Job(artifact, "onnxruntime")], threads=1, sampling=QUICK, runner=hooked(patch))
    assert result["obtained"] == "emulated"
    assert set(result["latency_ms"].values()) == {None}
    assert result["throughput_per_s"] is result["cold_start_ms"] is result["ratio_to_first"] is None
    assert result["samples_ns"] == []
    assert result["size_bytes"] > 0


def test_a_process_that_dies_under_way_is_one_line_and_ends_the_others(artifact):
    body = "len(runs) > 5 and (sys.stderr.write('out of juice\\n'), sys.stderr.flush(), os._exit(3))"
    before = children()
    with pytest.raises(
        EngineError, match=r"net\.onnx in onnxruntime: its process ended \(exit code 3\); .*out of juice"
    ):
        bench_jobs([Job(artifact, "onnxruntime")] * 2, threads=1, sampling=QUICK, runner=hooked(body))
    assert children() == before


def test_what_was_measured_is_kept_if_another_file_fails(artifact, tmp_path, monkeypatch, edgeq):
    died = tmp_path / "died"
    body = f"len(runs) > 5 and not os.path.exists({str(died)!r}) and (open({str(died)!r}, 'w').close(), os._exit(3))"
    real = benchmark.bench_jobs
    monkeypatch.setattr(
        on_devices,
        "bench_jobs",
        lambda jobs, **_given: real(
            [*jobs, dataclasses.replace(jobs[0])], threads=1, sampling=QUICK, runner=hooked(body)
        ),
    )
    outcome = edgeq("bench", artifact.path, "--runtime", "onnxruntime", "--json", tmp_path / "bench.json")
    assert outcome.code == 1
    said = " ".join(outcome.out.split())
    assert "process ended (exit code 3)" in said
    assert "what was measured of net.onnx in onnxruntime is kept" in said
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert (kept["runs"] >= 6, kept["ratio_to_first"], kept["device"]) == (True, None, "local")


def test_a_file_that_is_replaced_while_an_engine_opens_it_is_refused(artifact):
    path = str(artifact.path)
    body = f"len(runs) == 1 and open({path!r}, 'ab').write(b'more')"
    with pytest.raises(MismatchError, match=r"net\.onnx: was changed while it was read"):
        bench_jobs([Job(artifact, "onnxruntime")], threads=1, sampling=QUICK, runner=hooked(body))


@needs_procfs
def test_ctrl_c_ends_all_processes(artifact):
    script = (
        "from pathlib import Path\n"
        "from edgeq.measurement.benchmark import bench_artifacts\n"
        "from edgeq.measurement.timed_file import Sampling\n"
        f"path = Path({str(artifact.path)!r})\n"
        "bench_artifacts([path, path], ['onnxruntime'], sampling=Sampling(min_s=300, max_s=300, round_s=300))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as parent:
        runners = wait_for_children(parent.pid, 3)  # one of them watches the sensors
        parent.send_signal(signal.SIGINT)
        assert parent.stderr
        assert b"KeyboardInterrupt" in parent.stderr.read()
    assert all(wait_for_end(runner) for runner in runners)


def wait_for_children(pid: int, count: int) -> list[int]:
    for _ in range(400):
        if len(found := children(pid)) == count:
            return found
        time.sleep(0.05)
    pytest.fail(f"process {pid} did not start {count} runners")


def children(pid: int | None = None) -> list[int]:
    """Returns the process ids of a process's children, of this one by default; none where there is no /proc."""
    pid = pid or os.getpid()
    return [
        int(child) for listing in Path(f"/proc/{pid}/task").glob("*/children") for child in listing.read_text().split()
    ]


def test_a_changed_file_is_refused_before_any_process_starts(artifact):
    artifact.path.write_bytes(artifact.path.read_bytes()[:-1])
    with pytest.raises(MismatchError, match="cut short or changed"):
        bench_artifacts([artifact.path], sampling=QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtimes": ["tensorflow"]}, "unknown runtime 'tensorflow'"),
        ({"threads": 0}, "`threads` 0: wanted at least 1"),
        (
            {"runtimes": ["onnxruntime"], "compute_precisions": ["bf16"]},
            "onnxruntime computes float layers in f32 only",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(artifact, options, message):
    with pytest.raises(InputError, match=message):
        bench_artifacts([artifact.path], sampling=QUICK, **options)


def test_nothing_to_bench_is_refused():
    with pytest.raises(InputError, match="no artifact to bench"):
        bench_artifacts([])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_the_command_pins_to_the_cpus_it_is_given(edgeq, artifact, tmp_path):
    cpu, file = max(os.sched_getaffinity(0)), tmp_path / "bench.json"
    command = ["bench", artifact.path, "--runtime", "onnxruntime", "--seconds", "0.01", "--cpus"]
    assert edgeq(*command, cpu, "--json", file).code == 0
    environment = json.loads(file.read_text())["environment"]
    assert (environment["usable_cpus"], environment["threads"]) == (1, 1)
    assert "--cpus one: wanted numbers and ranges of CPUs" in edgeq(*command, "one").error
    assert "cannot run on CPUs [4000]" in edgeq(*command, "4000").error
