"""The runner as a real process: its answers, its figures, and that it never outlives who asked."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.machine import read_machine
from edgeq.runtimes.child import LOCAL_RUNNER, EndedProcessError, RunnerProcess
from edgeq.runtimes.runner import make_inputs
from tests.tiny import save_conv_net

TIMEOUT_S = 60
OPTIONS = {"runtime": "onnxruntime", "threads": 1, "compute_precision": None, "cpus": None}
ONCE = {"untimed_runs": 0, "min_runs": 1, "min_s": 0, "max_s": 10}
needs_procfs = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


@pytest.fixture
def artifact(tmp_path):
    return save_conv_net(tmp_path / "net.onnx")


def hooked(body: str) -> list[str]:
    """Returns the command of a runner whose ONNX Runtime session runs `body` before each inference."""
    script = (
        "import os, sys, time\n"
        "from edgeq.runtimes import onnxruntime as module\n"
        "session, runs = module.OnnxRuntimeSession, []\n"
        "plain = session._run\n"
        "def _run(self, inputs):\n"
        "    runs.append(0)\n"
        f"    {body}\n"
        "    return plain(self, inputs)\n"
        "session._run = _run\n"
        "from edgeq.runtimes.runner import main\n"
        "main()\n"
    )
    return [sys.executable, "-c", script]


def opened(process: RunnerProcess, path: Path, **options: object) -> dict[str, Any]:
    return process.ask(TIMEOUT_S, "open", artifact=str(path), **{**OPTIONS, **options})


def wait_for_end(pid: int, within_s: float = 20) -> bool:
    """Returns whether a process that is not our child (or not reaped yet) is gone or a zombie in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_whole_conversation(artifact):
    with RunnerProcess("net") as process:
        answer = opened(process, artifact.path)
        assert answer["environment"]["threads"] == 1
        assert set(answer["cold_start_ms"]) == {"start", "import", "load", "first"}
        assert all(part is None or part > 0 for part in answer["cold_start_ms"].values())
        samples = process.ask(TIMEOUT_S, "run", untimed_runs=2, min_runs=7, min_s=0, max_s=10)["samples_ns"]
        assert len(samples) == 7
        assert all(isinstance(sample, int) and sample > 0 for sample in samples)
        memory = process.ask(TIMEOUT_S, "report")
        assert 1 << 20 < memory["baseline_rss_bytes"] < memory["peak_rss_bytes"]
        process.ask(TIMEOUT_S, "quit")
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_run_goes_on_for_its_seconds_and_stops_at_its_maximum(artifact):
    with RunnerProcess("net", hooked("time.sleep(0.01)")) as process:
        opened(process, artifact.path)
        for minima in ({"min_runs": 1, "min_s": 0.1, "max_s": 10}, {"min_runs": 10_000, "min_s": 0, "max_s": 0.1}):
            samples = process.ask(TIMEOUT_S, "run", untimed_runs=0, **minima)["samples_ns"]
            assert 0.1e9 <= sum(samples) < 0.1e9 + samples[-1]


def test_what_an_engine_prints_does_not_mix_with_the_answers(artifact):
    with RunnerProcess("net", hooked("print('hello', flush=True); os.system('echo hello')")) as process:
        opened(process, artifact.path)
        assert len(process.ask(TIMEOUT_S, "run", **ONCE)["samples_ns"]) == 1


def test_errors_keep_their_class_and_line_and_the_process_lives_on(artifact, tmp_path):
    broken = save_conv_net(tmp_path / "broken.onnx")
    broken.path.write_bytes(b"x" + broken.path.read_bytes())
    with RunnerProcess("net") as process:
        with pytest.raises(InputError, match="no artifact is open"):
            process.ask(TIMEOUT_S, "run", **ONCE)
        with pytest.raises(MismatchError, match=r"broken\.onnx: is not the file that its manifest describes"):
            opened(process, broken.path)
        with pytest.raises(InputError, match="unknown runtime 'tensorflow'"):
            opened(process, artifact.path, runtime="tensorflow")
        with pytest.raises(InputError, match="field 'threads' of a command is 'two', wanted int or NoneType"):
            opened(process, artifact.path, threads="two")
        with pytest.raises(InputError, match="unknown command 'dance'"):
            process.ask(TIMEOUT_S, "dance")
        opened(process, artifact.path)
        with pytest.raises(InputError, match="an artifact is open already"):
            opened(process, artifact.path)


def test_a_line_that_is_not_json_is_answered():
    conversation = b'nonsense\n[1]\n{"command": "quit"}\n'
    runner = subprocess.Popen(LOCAL_RUNNER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert runner.stdin and runner.stdout
    runner.stdin.write(conversation)
    runner.stdin.flush()
    answers = [json.loads(runner.stdout.readline()) for _ in range(3)]
    assert [answer["ok"] for answer in answers] == [False, False, True]
    assert "not valid JSON" in answers[0]["message"]
    assert "expected a JSON object" in answers[1]["message"]
    assert runner.wait(TIMEOUT_S) == 0
    runner.stdin.close()
    runner.stdout.close()


@needs_procfs
def test_memory_is_the_runners_own_and_not_its_parents(artifact):
    """`ru_maxrss` of a child begins with its parent's peak, which would be above 400 MB here."""
    ballast = np.ones(400_000_000, np.uint8)
    with RunnerProcess("net") as process:
        opened(process, artifact.path)
        memory = process.ask(TIMEOUT_S, "report")
    assert memory["peak_rss_bytes"] < ballast.nbytes // 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_cpus_are_pinned_before_the_engine_loads(artifact):
    cpu = max(os.sched_getaffinity(0))
    with RunnerProcess("net") as process:
        assert opened(process, artifact.path, cpus=[cpu])["environment"]["usable_cpus"] == 1
        assert os.sched_getaffinity(process.pid) == {cpu}
    with RunnerProcess("net") as process, pytest.raises(InputError, match=r"cannot run on CPUs \[4000\]"):
        opened(process, artifact.path, cpus=[4000])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH")
def test_files_in_the_users_folder_are_not_imported(artifact, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise SystemExit('imported from the working folder')")
    monkeypatch.chdir(tmp_path)
    with RunnerProcess("net") as process:
        assert opened(process, artifact.path)["environment"]["engine"].startswith("onnxruntime ")


def test_the_runner_needs_numpy_msgspec_and_the_engine_only():
    script = "import sys, edgeq.runtimes.runner; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False, env=_bare()
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names - {"__main__"} <= {
        "edgeq",
        "msgspec",
        "numpy",
        "typing_extensions",
    }


def _bare() -> dict[str, str]:
    """An environment in which only edgeq and numpy are found, as on a device (`-S` leaves out site-packages)."""
    import edgeq

    folders = {Path(module.__file__ or "").parents[1] for module in (edgeq, np)}
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def test_an_answer_that_nobody_reads_ends_the_runner():
    """Python would abort: the thread that reads stdin holds its lock while the interpreter shuts down."""
    pipe = subprocess.PIPE
    with subprocess.Popen(LOCAL_RUNNER, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr.read() == b""


@pytest.mark.parametrize("way", ["end of stdin", "SIGTERM"])
def test_it_ends_in_the_midst_of_a_run(artifact, way):
    runner = subprocess.Popen(hooked("time.sleep(0.01)"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert runner.stdin and runner.stdout
    with runner.stdin as stdin, runner.stdout as stdout:
        for command in (
            {"command": "open", "artifact": str(artifact.path), **OPTIONS},
            {"command": "run", "untimed_runs": 0, "min_runs": 1, "min_s": 300, "max_s": 300},
        ):
            stdin.write(json.dumps(command).encode() + b"\n")
            stdin.flush()
        assert json.loads(stdout.readline())["ok"]
        time.sleep(0.2)
        assert runner.poll() is None
        if way == "SIGTERM":
            runner.terminate()
        else:
            stdin.close()
        assert runner.wait(20) == (-signal.SIGTERM if way == "SIGTERM" else 130)


@needs_procfs
def test_it_ends_when_its_parent_is_killed(artifact):
    """Nobody can clean up after SIGKILL: the runner sees the end of its stdin."""
    script = (
        "import sys\n"
        "from edgeq.runtimes.child import RunnerProcess\n"
        "process = RunnerProcess('net')\n"
        f"process.ask(60, 'open', artifact={str(artifact.path)!r}, **{OPTIONS!r})\n"
        "print(process.pid, flush=True)\n"
        "process.ask(600, 'run', untimed_runs=0, min_runs=1, min_s=300, max_s=300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        runner = int(parent.stdout.readline())
        time.sleep(0.2)
        assert not wait_for_end(runner, within_s=0.1)
        parent.kill()
    assert wait_for_end(runner)


def test_a_process_that_dies_is_an_error_with_its_last_words(artifact):
    body = "len(runs) > 2 and (sys.stderr.write('out of juice\\n'), sys.stderr.flush(), os.abort())"
    with RunnerProcess("net.onnx in onnxruntime", hooked(body)) as process:
        opened(process, artifact.path)
        with pytest.raises(EngineError) as caught:
            process.ask(TIMEOUT_S, "run", **{**ONCE, "min_runs": 5})
    assert "net.onnx in onnxruntime: its process ended (killed by signal 6)" in str(caught.value)
    assert "out of juice" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_procfs
def test_a_process_that_dies_leaves_its_peak_of_memory(artifact):
    held = 800_000_000
    with RunnerProcess("net", hooked(f"len(runs) > 2 and (bytes([1]) * {held}, os.abort())")) as process:
        opened(process, artifact.path)
        with pytest.raises(EndedProcessError, match="killed by signal 6") as caught:
            process.ask(TIMEOUT_S, "run", **{**ONCE, "min_runs": 5})
    assert caught.value.peak_bytes is not None and caught.value.peak_bytes > held


def test_a_process_that_hangs_is_an_error_and_is_ended(artifact):
    with RunnerProcess("net", hooked("len(runs) > 1 and time.sleep(600)")) as process:
        opened(process, artifact.path)
        with pytest.raises(EngineError, match=r"no answer to 'run' within 0\.5 s"):
            process.ask(0.5, "run", **ONCE)
    assert not Path(f"/proc/{process.pid}").exists()


@needs_procfs
def test_a_process_that_does_not_listen_is_killed():
    """It ignores both the end of stdin and SIGTERM."""
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    with RunnerProcess("stubborn", [sys.executable, "-c", stubborn]) as process:
        pass
    assert not Path(f"/proc/{process.pid}").exists()


@pytest.mark.parametrize("line", ["Welcome to this device!", "[1, 2]", '{"hello": 1}', '{"ok": "yes"}'])
def test_an_answer_that_is_none_is_an_error(line):
    wanted = pytest.raises(EngineError, match=r"device: its process answered .* wanted a JSON object")
    with RunnerProcess("device", [sys.executable, "-c", f"input(); print({line!r})"]) as process, wanted:
        process.ask(TIMEOUT_S, "report")


def test_inputs_are_preprocessed_noise_and_the_same_every_time(artifact):
    first, second = make_inputs(artifact), make_inputs(artifact)
    np.testing.assert_array_equal(first["image"], second["image"])
    mean, std = (np.reshape(values, (3, 1, 1)) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (first["image"] * std + mean) * 255
    assert np.abs(pixels - pixels.round()).max() < 1e-3
    assert pixels.min() >= -1e-3 and pixels.max() <= 255.001
    assert len(np.unique(pixels.round())) > 200


def test_inputs_take_every_dtype_and_free_dimension(artifact):
    specs = (
        TensorSpec("tokens", "int64", (None, 12)),
        TensorSpec("mask", "bool", (1, 12)),
        TensorSpec("features", "float16", (None, 4, 4)),
    )
    inputs = make_inputs(dataclasses.replace(artifact, inputs=specs, preprocessing=Preprocessing(32, 32)))
    assert {name: (str(array.dtype), array.shape) for name, array in inputs.items()} == {
        "tokens": ("int64", (1, 12)),
        "mask": ("bool", (1, 12)),
        "features": ("float16", (1, 4, 4)),
    }
    assert set(np.unique(inputs["tokens"])) <= {0, 1}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_channel_last_and_quantized_inputs_are_pixels_too(artifact, dtype):
    height, width = artifact.preprocessing.height_px, artifact.preprocessing.width_px
    plain = TensorSpec("image", "float32", (2, 3, height, width))
    spec = TensorSpec("image", dtype, (2, height, width, 3), "NHWC", *((0.02, 3) if dtype == "int8" else ()))
    expected = make_inputs(dataclasses.replace(artifact, inputs=(plain,)))["image"]
    found = make_inputs(dataclasses.replace(artifact, inputs=(spec,)))["image"]
    assert (str(found.dtype), found.shape) == (dtype, spec.shape)
    limits = (-131 * 0.02, 124 * 0.02)
    np.testing.assert_allclose(
        spec.decode(found), expected.clip(*limits) if dtype == "int8" else expected, atol=0.0101, rtol=0
    )


def test_gray_inputs_are_pixels_of_one_channel(artifact):
    gray = Preprocessing(8, 12, channel_order="gray", mean=(0.5,), std=(0.5,))
    specs = (TensorSpec("a", "float32", (None, 1, 8, 12)), TensorSpec("b", "float32", (1, 8, 12, 1), "NHWC"))
    for array in make_inputs(dataclasses.replace(artifact, inputs=specs, preprocessing=gray)).values():
        pixels = (array * 0.5 + 0.5) * 255
        assert np.abs(pixels - pixels.round()).max() < 1e-3
        assert len(np.unique(pixels.round())) > 50


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (TensorSpec("x", "uint8", (1, 64, 64, 3), "NHWC"), 256),
        (TensorSpec("x", "int8", (1, 3000), scale=0.1), 256),
        (TensorSpec("x", "uint8", (1, 3000)), 2),
        (TensorSpec("x", "bool", (1, 3, 8, 8)), 2),
    ],
)
def test_integers_of_files_that_nothing_is_known_about(artifact, spec, values):
    bare = dataclasses.replace(artifact, inputs=(spec,), preprocessing=None)
    found = make_inputs(bare)["x"]
    assert (str(found.dtype), found.shape, len(np.unique(found))) == (spec.dtype, spec.shape, values)


def test_a_file_without_a_manifest_is_described_by_the_command(artifact):
    artifact.manifest_path.unlink()
    with RunnerProcess("net") as process:
        with pytest.raises(InputError, match="has no manifest next to it"):
            opened(process, artifact.path)
        opened(process, artifact.path, manifest=artifact.to_json())
        assert len(process.ask(TIMEOUT_S, "run", **ONCE)["samples_ns"]) == 1


def test_the_machine_is_told_by_the_process_that_runs(artifact):
    with RunnerProcess("net") as process:
        environment = opened(process, artifact.path)["environment"]
    assert environment["cpu"] == read_machine().cpu
    assert environment["emulated"] is False
