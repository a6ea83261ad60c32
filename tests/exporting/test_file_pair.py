from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.file_pair import pair_written
from edgeq.files import write_bytes
from tests.tiny import save_conv_net


@pytest.mark.parametrize("has_old", [True, False])
def test_a_kill_between_file_and_manifest_leaves_a_file_that_is_refused(tmp_path: Path, has_old: bool) -> None:
    path = tmp_path / "net.onnx"
    if has_old:
        save_conv_net(path)
    pid = os.fork()
    if pid == 0:
        with pair_written(path):
            write_bytes(path, b"new")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    for given in (path, Path(f"{path}.json")):
        with pytest.raises(InputError, match="its model file was not written to the end; export the model again"):
            Artifact.load(given)


def test_a_failure_before_the_file_is_replaced_keeps_the_old_pair(tmp_path: Path) -> None:
    old = save_conv_net(tmp_path / "net.onnx")
    with pytest.raises(KeyboardInterrupt), pair_written(old.path):
        raise KeyboardInterrupt
    assert Artifact.load(old.path).digest == old.digest
    with pytest.raises(ValueError, match="never"), pair_written(tmp_path / "other.onnx"):
        raise ValueError("never written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]


def test_two_writers_leave_the_pair_of_one_of_them(tmp_path: Path) -> None:
    pair = save_conv_net(tmp_path / "net.onnx")
    writers = []
    for content in (b"one", b"other"):
        pid = os.fork()
        if pid == 0:
            for _ in range(15):
                with pair_written(pair.path):
                    write_bytes(pair.path, content)
                    time.sleep(0.001)
                    pair.save()
            os._exit(0)
        writers.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in writers] == [0, 0]
    assert Artifact.load(pair.path).path.read_bytes() in (b"one", b"other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]
