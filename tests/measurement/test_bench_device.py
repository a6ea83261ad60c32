"""`edgeq bench` and `edgeq doctor --device-test` on the pretended Jetson, which child processes find as `tensorrt`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.json_results import bench_artifacts, merge
from edgeq.measurement.timed_file import Sampling
from edgeq.results.rows import provenance
from edgeq.runtimes import is_installed
from edgeq.verbs import doctor
from edgeq.verbs.build import BuildRequest, build_engines
from tests.trt_fixtures import board, child, faults, save_net, trt10

__all__ = ["board", "child", "faults", "trt10"]


def test_bench_tells_the_gpus_time_beside_the_latency(trt10, child, tmp_path):
    child()
    source = save_net(tmp_path / "net.onnx", qdq=True)
    (built,) = build_engines([source.path], BuildRequest())
    sampling = Sampling(warmup_runs=1, warmup_s=0, min_runs=6, min_s=0)
    (result,) = bench_artifacts([built.artifact.path], ["tensorrt"], sampling=sampling)
    assert result["runtime"] == "tensorrt"
    assert result["obtained"] == "measured"
    # The double's clock: three INT8 convolutions, two float functions, one Reformat.
    assert result["gpu_ms"]["p50"] == pytest.approx(3.75)
    assert result["gpu_ms"]["mad"] == pytest.approx(0, abs=1e-9)
    assert result["enqueue_ms"]["p50"] >= 0
    assert result["launch_bound"] is False
    assert result["runs"] >= 6
    assert result["environment"]["gpu"] == "Orin"
    json.dumps(result)


def test_launch_bound_runs_are_named():
    result: dict[str, Any] = {"artifact": "net.engine", "digest": "", "runtime": "tensorrt", "precision": "int8"}
    result |= {"latency_ms": {"p50": 1.0}, "gpu_ms": {"p50": 0.5}, "launch_bound": True, "environment": {}}
    said = provenance(merge([result]))
    assert any("net.engine: launch bound, the CPU sets the pace" in sentence for sentence in said)


def test_the_device_test_reports_int8_and_the_difference(child):
    child()
    check = doctor._check_device()
    assert (check.name, check.state) == ("INT8 in TensorRT", "ok")
    assert "3 of 3 convolutions in INT8" in check.found
    assert "TensorRT 10.3.0" in check.found and "Orin (8.7)" in check.found and "% off ONNX Runtime" in check.found


@pytest.mark.parametrize(
    ("faults", "state", "said"),
    [
        ({"no_int8": True}, "warning", "0 of 3 convolutions in INT8"),
        ({"distort": {"explicit": 0.5}}, "broken", "% off ONNX Runtime"),
        ({"build_error": "no kernel image is available"}, "broken", "no kernel image is available"),
    ],
)
def test_the_device_test_says_what_is_wrong(child, faults, state, said):
    child(**faults)
    check = doctor._check_device()
    assert check.state == state
    assert said in check.found


def test_without_tensorrt_the_device_test_fails_in_one_line(edgeq, monkeypatch):
    monkeypatch.setattr(doctor, "_check_engines", lambda: ())
    monkeypatch.setattr(doctor, "_check_torch", lambda: ())
    if is_installed("tensorrt"):
        pytest.skip("TensorRT is installed here")
    outcome = edgeq("doctor", "--device-test")
    assert outcome.code == 1
    assert "TensorRT's Python module cannot be imported" in outcome.out
    assert "Traceback" not in outcome.out + outcome.err
