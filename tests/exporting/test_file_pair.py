from __future__ import annotations

import os
import signal
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
