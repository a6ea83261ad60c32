"""A search's files on the pretended Jetson: it builds their engines, once each, and times those."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeq.devices.config import Device
from edgeq.devices.transfer import SentFile
from edgeq.errors import DeviceError
from edgeq.measurement.timed_file import Sampling
from edgeq.targets import get_target
from edgeq.tuning.timing_devices import Devices
from tests.trt_fixtures import child, save_net

__all__ = ["child"]

QUICK = Sampling(warmup_runs=1, warmup_s=0.0, min_runs=6, min_s=0.0, round_runs=1, round_s=0.0, idle_s=0.0)


class Board:
    """A device whose Python is this one, and whose files lie in a folder."""

    folder: Path
    tensorrt = True

    def __init__(self, device: Device) -> None:
        self.device = device
        self.facts = SimpleNamespace(tensorrt=self.tensorrt)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def prepare(self, runtimes: Iterable[str]) -> None:
        assert list(runtimes) == ["tensorrt"]

    def python(self, *arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def count_threads(self) -> int:
        return 1

    def push(self, files: Iterable[SentFile]) -> None:
        for file in files:
            target = Path(self.path_of(file))
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file.path, target)

    def path_of(self, file: SentFile) -> str:
        return str(self.folder / file.name)


@pytest.fixture
def site(tmp_path, monkeypatch) -> Devices:
    Board.folder = tmp_path / "board"
    Board.folder.mkdir()
    monkeypatch.setattr("edgeq.tuning.timing_devices.RemoteDevice", Board)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Devices([Device("orin", host="orin")], get_target("jetson-orin"), "simulated-tensorrt")


def test_engines_are_built_once_on_the_board_and_timed_there(site, child, tmp_path):
    child()
    files = []
    for name, qdq in (("fp", False), ("int8", True)):
        (tmp_path / name).mkdir()
        files.append(save_net(tmp_path / name / "net.onnx", qdq=qdq))
    kind = site.survey(files[0])
    assert kind.engine.startswith("tensorrt 10.3.0")
    assert "Orin" in kind.machine
    ((_, results),) = site.bench([files], QUICK)
    assert [each.runtime for each in results] == ["tensorrt"] * 2
    assert all(each.gpu_ms is not None and each.gpu_ms.p50 for each in results)
    engines = sorted(Board.folder.glob("*/*.engine"))
    assert len(engines) == 2
    built = [engine.stat().st_mtime_ns for engine in engines]
    ((_, again),) = site.bench([files], QUICK)
    assert [engine.stat().st_mtime_ns for engine in engines] == built
    assert [each.digest for each in again] == [each.digest for each in results]


def test_a_board_whose_python_has_no_tensorrt_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(Board, "tensorrt", False)
    with pytest.raises(DeviceError, match=r"orin: its Python has no TensorRT, .*; name an interpreter that imports"):
        site.survey(save_net(tmp_path / "net.onnx", qdq=False))


def test_a_file_that_the_board_cannot_build_is_named(site, child, tmp_path):
    child(build_error="no kernel image is available")
    with pytest.raises(DeviceError, match=r"orin: .*no kernel image is available"):
        site.survey(save_net(tmp_path / "net.onnx", qdq=True))


def test_the_builder_needs_no_onnx():
    blocked = "import sys; sys.modules.update(onnx=None, onnx_ir=None, onnxruntime=None, scipy=None)"
    script = f"{blocked}; import edgeq.runtimes.tensorrt.build_worker"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
