"""The runner as the process that watches the machine: real processes, boards of files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeq.errors import InputError
from edgeq.runtimes.child import RunnerProcess
from tests.boards import jetson_orin_nano, raspberry_pi_5, write, x86_laptop
from tests.runtimes.test_runner import ONCE, OPTIONS, TIMEOUT_S, wait_for_end
from tests.tiny import save_conv_net


def on_board(root: Path, *lines: str) -> list[str]:
    """Returns the command of a runner that takes a tree of files for its machine."""
    script = ["import sys", "from pathlib import Path", *lines, "from edgeq.runtimes.runner import main"]
    return [sys.executable, "-c", "\n".join([*script, f"main(Path({str(root)!r}))"])]


def test_a_whole_conversation(tmp_path):
    root = raspberry_pi_5(tmp_path)
    with RunnerProcess("sensors", on_board(root)) as process:
        sensed = process.ask(TIMEOUT_S, "sense")
        assert sensed["sensors"]["cpu_clock"]["policy0"]["governor"] == "ondemand"
        assert sensed["load_average"] == [0.10, 0.05, 0.01]
        assert process.ask(TIMEOUT_S, "power", seconds=60)["watts"] is None
        process.ask(TIMEOUT_S, "watch", leave_cpus=[])
        write(root, {"sys/class/hwmon/hwmon2/in0_lcrit_alarm": 1})
        series = process.ask(TIMEOUT_S, "unwatch")
        assert len(series["entries"]) >= 2
        assert series["troubles"] == ["Raspberry Pi: under-voltage"]
        process.ask(TIMEOUT_S, "watch", leave_cpus=[])  # again, from the beginning
        assert process.ask(TIMEOUT_S, "unwatch")["entries"][0]["t_s"] < 60


def test_what_is_out_of_order_is_refused(tmp_path):
    with RunnerProcess("sensors", on_board(tmp_path)) as process:
        with pytest.raises(InputError, match="are not being watched"):
            process.ask(TIMEOUT_S, "unwatch")
        process.ask(TIMEOUT_S, "watch", leave_cpus=[])
        with pytest.raises(InputError, match="are being watched already"):
            process.ask(TIMEOUT_S, "watch", leave_cpus=[])
        process.ask(TIMEOUT_S, "unwatch")
        with pytest.raises(InputError, match="field 'leave_cpus' of a command is None"):
            process.ask(TIMEOUT_S, "watch")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_the_watcher_leaves_the_cpus_of_the_measurement(tmp_path):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    with RunnerProcess("sensors", on_board(tmp_path)) as process:
        process.ask(TIMEOUT_S, "watch", leave_cpus=[min(allowed)])
        assert os.sched_getaffinity(process.pid) == allowed - {min(allowed)}
        process.ask(TIMEOUT_S, "unwatch")
    with RunnerProcess("sensors", on_board(tmp_path)) as process:
        process.ask(TIMEOUT_S, "watch", leave_cpus=sorted(allowed))  # there are no others
        assert os.sched_getaffinity(process.pid) == allowed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_it_ends_when_its_parent_is_killed(tmp_path):
    script = (
        "from edgeq.runtimes.child import RunnerProcess\n"
        "process = RunnerProcess('sensors')\n"
        "process.ask(60, 'watch', leave_cpus=[])\n"
        "print(process.pid, flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        watcher = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not wait_for_end(watcher, within_s=0.1)
        parent.kill()
    assert wait_for_end(watcher)


def test_a_run_tells_its_window_its_clocks_and_its_energy(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    root = x86_laptop(tmp_path / "laptop")
    with RunnerProcess("net", on_board(root)) as process:
        process.ask(TIMEOUT_S, "open", artifact=str(artifact.path), **OPTIONS)
        before = time.monotonic_ns()
        answer = process.ask(TIMEOUT_S, "run", **{**ONCE, "min_runs": 5})
        begin, end = answer["window_ns"]
        assert before < begin < end < time.monotonic_ns()
        assert sum(answer["samples_ns"]) <= end - begin
        assert answer["clock_mhz"] == [3400.0, 3400.0]
        assert answer["energy_j"] == 0.0


def test_a_run_on_a_machine_that_tells_nothing(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    with RunnerProcess("net", on_board(tmp_path / "none")) as process:
        process.ask(TIMEOUT_S, "open", artifact=str(artifact.path), **OPTIONS)
        answer = process.ask(TIMEOUT_S, "run", **ONCE)
    assert (answer["clock_mhz"], answer["energy_j"]) == (None, None)


def test_runs_on_a_gpu_are_about_the_gpus_clock(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    on_gpu = (
        "from edgeq.runtimes.onnxruntime import OnnxRuntimeSession as S; from edgeq.runtimes.base import DeviceTimes"
    )
    root = jetson_orin_nano(tmp_path / "jetson")
    with RunnerProcess("net", on_board(root, on_gpu, "S.device_times = DeviceTimes(1.0, 0.1)")) as process:
        process.ask(TIMEOUT_S, "open", artifact=str(artifact.path), **OPTIONS)
        clocks = process.ask(TIMEOUT_S, "run", **ONCE)["clock_mhz"]
    assert clocks == pytest.approx([611.999744] * 2)


def test_functions_of_who_drives_it_are_called_with_the_session(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    with RunnerProcess("net") as process:
        with pytest.raises(InputError, match="no artifact is open"):
            process.ask(TIMEOUT_S, "call", function="edgeq.measurement.stage_timing:time_stages")
        process.ask(TIMEOUT_S, "open", artifact=str(artifact.path), **OPTIONS)
        assert (
            process.ask(TIMEOUT_S, "call", function="edgeq.measurement.stage_timing:time_stages")["result"]["problem"]
            is None
        )
        with pytest.raises(InputError, match=r"function 'edgeq\.verbs\.nothing:at_all': cannot import"):
            process.ask(TIMEOUT_S, "call", function="edgeq.verbs.nothing:at_all")


def test_the_engine_sends_nothing_home(tmp_path):
    artifact = save_conv_net(tmp_path / "net.onnx")
    double = (
        "import os",
        "look = sys.modules['look'] = type(sys)('look')",
        "look.at = lambda _session: os.environ.get('ORT_DISABLE_TELEMETRY')",
    )
    with RunnerProcess("net", on_board(tmp_path, *double)) as process:
        process.ask(TIMEOUT_S, "open", artifact=str(artifact.path), **OPTIONS)
        assert process.ask(TIMEOUT_S, "call", function="look:at")["result"] == "1"
