"""What edgeq finds on an aarch64 machine, and how it goes about emulated times."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.json_results import bench_jobs
from edgeq.exporting.artifact import Artifact
from edgeq.measurement.timed_file import Job
from edgeq.results.measurement import BenchResult
from edgeq.results.reading import read_results
from edgeq.runtimes.child import RunnerProcess
from edgeq.runtimes.probe import ONNX, TFLITE
from edgeq.tasks import score_types
from tests.arm.agreement import ROOT

pytestmark = pytest.mark.arm

# Linux's AT_HWCAP, and the bit of it for the dot product instructions (arch/arm64/include/uapi/asm/hwcap.h).
AT_HWCAP = 16
HWCAP_ASIMDDP = 1 << 20
LOOK = f"""
import ctypes, dataclasses, json
from edgeq.machine import read_machine

getauxval = ctypes.CDLL(None).getauxval
getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
dot_product = bool(getauxval({AT_HWCAP}) & {HWCAP_ASIMDDP})
print(json.dumps(dataclasses.asdict(read_machine()) | {{"dot_product": dot_product}}))
"""


@pytest.mark.parametrize(
    ("cpu", "name", "features"),
    [
        ("neoverse-n1", "Neoverse-N1", ["asimd", "asimdhp", "asimddp"]),
        ("cortex-a76", "Cortex-A76", ["asimd", "asimdhp", "asimddp"]),
        ("cortex-a72", "Cortex-A72", ["asimd"]),
        ("cortex-a53", "Cortex-A53", ["asimd"]),
    ],
)
def test_the_cpu_is_known_by_name_and_features(emulate, cpu, name, features):
    machine = json.loads(emulate(cpu).run("-c", LOOK))
    assert (machine["architecture"], machine["emulated"]) == ("aarch64", True)
    assert (machine["cpu"], machine["cpu_features"]) == (name, features)
    assert machine["dot_product"] == ("asimddp" in features)  # as the CPU itself says


@pytest.mark.parametrize(("cpu", "instructions"), [("neoverse-n1", "ok"), ("cortex-a53", "warning")])
def test_doctor_runs_every_engine_and_names_the_emulation(emulate, tmp_path, cpu, instructions):
    emulate(cpu).run("-m", "edgeq", "doctor", "--json", tmp_path / "doctor.json")
    checks = {check["name"]: check for check in json.loads((tmp_path / "doctor.json").read_text())["checks"]}
    assert checks["INT8 instructions"]["state"] == instructions
    assert "aarch64 process on an x86 CPU" in checks["emulation"]["found"]
    for engine in ("onnxruntime", "litert"):
        assert checks[f"inference in {engine}"]["state"] == "ok", checks[f"inference in {engine}"]
        assert "its sums are exact" in checks[f"inference in {engine}"]["found"]


def test_the_command_line_answers(arm):
    assert "Usage" in arm.run("-m", "edgeq", "--help")


def test_bench_of_an_emulated_runner_gives_no_times(arm):
    (result,) = bench_jobs([Job(TFLITE, "litert")], threads=1, runner=runner(arm))
    assert result["obtained"] == "emulated"
    assert result["environment"]["architecture"] == "aarch64"
    assert set(result["latency_ms"].values()) == {None}
    assert (result["throughput_per_s"], result["samples_ns"]) == (None, [])
    assert result["peak_rss_bytes"] > 0


def test_bench_on_an_emulated_machine_gives_no_times(arm, tmp_path):
    table = arm.run("-m", "edgeq", "bench", ONNX.path, "--runtime", "onnxruntime", "--json", tmp_path / "bench.json")
    assert "Latency, size and memory: emulated with onnxruntime" in " ".join(table.split())
    (result,) = read_results([tmp_path / "bench.json"], score_types())
    assert isinstance(result, BenchResult)
    assert (result.obtained, result.latency_ms.p50) == ("emulated", None)


def test_an_emulated_runner_ends_with_its_input(arm):
    with RunnerProcess("emulated", runner(arm)) as process:
        process.ask(120, "open", **opening(ONNX, "onnxruntime"))
    assert not Path(f"/proc/{process.pid}").exists()


def test_sensors_and_cpu_features_pass_their_tests_there(arm):
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT]
    said = arm.run(*command, ROOT / "tests/sensors", ROOT / "tests/test_machine.py")
    assert re.search(r"^\d+ passed in", said, re.MULTILINE), said


def runner(machine) -> tuple[str, ...]:
    return (str(machine.python), "-m", "edgeq.runtimes.runner")


def opening(artifact: Artifact, runtime: str) -> dict[str, object]:
    where = {"artifact": str(artifact.path), "manifest": artifact.to_json(), "runtime": runtime}
    return where | {"threads": 1, "compute_precision": None, "cpus": None}
