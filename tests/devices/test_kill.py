"""What is left when the host, the device's process or the connection dies: no process, and everything that was done."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeq
from benchmarks.json_results import evaluate_artifacts
from tests.devices.scene import Scene, draw_scene
from tests.tiny import save_conv_net

_IMAGES = 150
# On a busy machine a command takes many times as long as alone.
_WAIT_S = 240.0
_PREDICTOR = "edgeq.evaluation.prediction_server"
_RUNNER = "edgeq.runtimes.runner"


class Host:
    """edgeq as a process that can be killed."""

    def __init__(self, folder: Path, cache: Path, source: Path) -> None:
        self.folder = folder
        self.journals = cache / "edgeq" / "eval"
        self._source = source
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Starts a command."""
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeq", *map(str, arguments)],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self._source), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def finished_images(self) -> list[str]:
        """Returns the digests of the images that the journal of the run holds."""
        lines = [line for path in self.journals.glob("*") for line in path.read_text().splitlines()]
        parts = [json.loads(line)["part"] for line in lines]
        return [part["image"] for part in parts if "image" in part]

    def wait_for_images(self, count: int) -> None:
        """Waits until the run has kept so many images."""
        _wait(lambda: len(self.finished_images()) >= count, f"{count} images", poll_s=0.02)

    def close(self) -> None:
        """Ends what still runs, and forgets the journals."""
        for process in self._started:
            process.kill()
            process.communicate()
        shutil.rmtree(self.journals, ignore_errors=True)


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return draw_scene(tmp_path_factory.mktemp("scene"), _IMAGES)


@pytest.fixture(scope="module")
def expected(scene) -> dict[str, Any]:
    (result,) = evaluate_artifacts(
        [scene.artifact], scene.annotations, scene.images, runtimes=["onnxruntime"], threads=1
    )
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the package, which nobody edits meanwhile."""
    folder: Path = tmp_path_factory.mktemp("source")
    package = Path(edgeq.__file__).parent
    shutil.copytree(package, folder / "edgeq")
    return folder


@pytest.fixture
def host(loop, tmp_path, wheels, source) -> Iterator[Host]:
    (tmp_path / "devices.toml").write_text(loop.toml("loop") + loop.toml("twin"))
    running = Host(tmp_path, wheels, source)
    yield running
    running.close()


def kill_host(process: subprocess.Popen[str], _loop: Any) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=_WAIT_S)


def kill_on_device(process: subprocess.Popen[str], loop: Any) -> None:
    os.kill(loop.wait_for(_PREDICTOR), signal.SIGKILL)
    out, error = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 1
    assert "loop: squares `finder`.onnx in onnxruntime: its process ended" in _one_error(error), out


def cut_connection(process: subprocess.Popen[str], loop: Any) -> None:
    loop.cut()
    _, error = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 1
    assert "loop: " in _one_error(error)


@pytest.mark.parametrize("kill", [kill_host, kill_on_device, cut_connection])
def test_an_evaluation_that_is_cut_goes_on(loop, host, scene, expected, kill):
    command = ["eval", *scene.options, "--threads", 1, "--device", "loop", "--json", "e.json"]
    process = host.start(*command)
    host.wait_for_images(10)
    kill(process, loop)
    loop.assert_empty()
    _wait(lambda: loop.masters() == [], "the connection's end")
    finished = host.finished_images()
    assert 10 <= len(finished) < _IMAGES, "it was cut in the midst"
    assert not (host.folder / "e.json").exists()

    # What is done is not asked for again: it is not even missed there.
    for digest in finished:
        shutil.rmtree(loop.cache / "files" / digest)
    again = host.start(*command)
    _, error = again.communicate(timeout=_WAIT_S)
    assert again.returncode == 0, error
    assert [digest for digest in finished if (loop.cache / "files" / digest).exists()] == []
    result = json.loads((host.folder / "e.json").read_text())
    for key in ("AP", "AP50", "AR_100", "per_class", "images", "predictions"):
        assert result[key] == expected[key], key
    assert result["environment"]["engine"] == expected["environment"]["engine"]
    assert host.finished_images() == []
    loop.assert_empty()


def test_a_benchmark_whose_host_is_killed(loop, host):
    process = host.start(*_long_bench(host), "--device", "loop", "--device", "twin")
    _wait_for_runners(loop, 2)
    kill_host(process, loop)
    loop.assert_empty()
    _wait(lambda: loop.masters() == [], "the connection's end")


def test_a_benchmark_whose_runner_is_killed(loop, host):
    process = host.start(*_long_bench(host), "--device", "loop")
    pids = _wait_for_runners(loop, 2)  # the watcher of the sensors and the engine
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    _, error = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 1
    assert "loop: net.onnx in onnxruntime: its process ended" in _one_error(error)
    loop.assert_empty()
    assert loop.masters() == []


def test_a_benchmark_whose_connection_is_cut_and_done_again(loop, host):
    process = host.start(*_long_bench(host), "--device", "loop")
    _wait_for_runners(loop, 2)
    cut_connection(process, loop)
    loop.assert_empty()

    again = host.start(
        "bench", host.folder / "net.onnx", "--runtime", "onnxruntime", "--seconds", 0, "--device", "loop"
    )
    _, error = again.communicate(timeout=_WAIT_S)
    assert again.returncode == 0, error


def test_what_one_device_has_measured_outlives_the_host(loop, host):
    silent = host.folder / "silent"
    # It takes commands and never answers, and ends with its input as every runner does.
    silent.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exec cat >&2\nexec {loop.device().python} "$@"\n')
    silent.chmod(0o755)
    toml = loop.toml("loop") + loop.toml("silent").replace(loop.device().python, str(silent))
    (host.folder / "devices.toml").write_text(toml)
    net = save_conv_net(host.folder / "net.onnx").path
    command = [
        "bench", net, "--runtime", "onnxruntime", "--seconds", 0,
        "--device", "silent", "--device", "loop", "--json", "b.json",
    ]  # fmt: skip
    process = host.start(*command)
    _wait((host.folder / "b.json").exists, "the results of the first device")
    kill_host(process, loop)
    result = json.loads((host.folder / "b.json").read_text())
    assert (result["device"], result["artifact"]) == ("loop", "net.onnx")
    loop.assert_empty()

    # The same command measures where nothing was measured; the other device need not even be there.
    (host.folder / "devices.toml").write_text(toml.replace(str(silent), loop.device().python))
    again = host.start(*command)
    _, error = again.communicate(timeout=_WAIT_S)
    assert again.returncode == 0, error
    assert re.search(r"loop: reusing what the interrupted run measured at [-0-9]+ [:0-9]+", error)
    rows = json.loads((host.folder / "b.json").read_text())
    assert [row["device"] for row in rows] == ["silent", "loop"]
    assert rows[1] == result
    third = host.start(*command)
    _, error = third.communicate(timeout=_WAIT_S)
    assert third.returncode == 0, error
    assert "reusing what" not in error
    assert json.loads((host.folder / "b.json").read_text())[1]["samples_ns"] != result["samples_ns"]


def test_ctrl_c_ends_all_devices(loop, host):
    process = host.start(*_long_bench(host), "--device", "loop", "--device", "twin")
    _wait_for_runners(loop, 4)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=_WAIT_S)
    assert process.returncode == 130
    assert error.strip().splitlines()[-1] == "error: interrupted"
    loop.assert_empty()
    assert loop.masters() == []


def _long_bench(host: Host) -> list[object]:
    net = save_conv_net(host.folder / "net.onnx").path
    return ["bench", net, "--runtime", "onnxruntime", "--seconds", 300]


def _wait_for_runners(loop: Any, count: int) -> list[int]:
    """Returns the processes of so many runners, once they run."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [pid for pid, line in loop.processes().items() if _RUNNER in line]
        return len(found) >= count

    _wait(there, f"{count} runners")
    return found


def _one_error(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in stderr
    return line


def _wait(condition: Callable[[], bool], what: str, poll_s: float = 0.1) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(poll_s)
