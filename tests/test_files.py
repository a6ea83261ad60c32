"""Files that appear whole or not at all, and what is left of those whose writer was killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq import files
from edgeq.errors import InputError
from edgeq.files import atomic_path, write_text
from edgeq.inputs.images import list_images
from edgeq.reporting.runs import read_runs

_WRITE = """
import sys, time
from pathlib import Path
from edgeq.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text('{"artifact": "half')
    print("writing", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that is about to write a file; it is killed at the end."""
    command = [sys.executable, "-c", _WRITE, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def _temporary(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if "edgeq-tmp" in each.name)


def _write_later(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes a file an hour later, in a process that has not seen the folder."""
    files._remove_orphans.cache_clear()
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("edgeq.files.time.time", lambda: now + 3600)
        write_text(target, "whole")


def test_a_killed_writer_leaves_nothing_for_long_and_a_living_one_keeps_its_file(tmp_path, monkeypatch):
    target, foreign = tmp_path / "bench.json", tmp_path / ".bench.json.tmp"
    foreign.write_text("somebody else's")
    with _writing(target) as living:
        with _writing(target):
            pass
        left = _temporary(tmp_path)
        assert len(left) == 2
        with pytest.raises(InputError, match="no results"):
            read_runs([tmp_path])
        write_text(tmp_path / "young.json", "{}")
        assert _temporary(tmp_path) == left
        _write_later(tmp_path / "other.json", monkeypatch)
        assert len(_temporary(tmp_path)) == 1
        assert living.poll() is None
        assert foreign.exists()


def test_a_block_that_fails_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_hidden_files_are_no_images(tmp_path):
    for name in ("0.png", "._0.png", ".1.edgeq-tmp.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in list_images(tmp_path)] == ["0.png"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of its own with a limit")
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    import resource
    import signal

    target = tmp_path / "a.txt"
    write_text(target, "old")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(target, "new" * 1000)
        except InputError as error:
            os._exit(7 if "cannot be written" in str(error) and "\n" not in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert target.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
