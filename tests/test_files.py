"""Files that appear whole or not at all, and what is left of those whose writer was killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
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
from edgeq.resume import JobLog
from tests.reporting.made import make_timing

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


_APPEND = """
import sys, time
from pathlib import Path
from edgeq.files import alone_in, write_text
target = Path(sys.argv[1])
for number in range(20):
    with alone_in(target.parent):
        lines = target.read_text()
        time.sleep(0.002)
        write_text(target, f"{lines}{sys.argv[2]}{number}\\n")
"""


def test_processes_that_add_to_one_file_lose_nothing(tmp_path):
    target = tmp_path / "list.txt"
    target.write_text("")
    started = [subprocess.Popen([sys.executable, "-c", _APPEND, str(target), name]) for name in "ab"]
    assert [process.wait(60) for process in started] == [0, 0]
    assert sorted(target.read_text().split()) == sorted(f"{name}{number}" for name in "ab" for number in range(20))
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_a_drive_without_locks_makes_nobody_wait(tmp_path, monkeypatch):
    def no_locks(_descriptor, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("edgeq.files.fcntl.flock", no_locks)
    monkeypatch.setattr("edgeq.files.time.sleep", pytest.fail)
    with files.alone_in(tmp_path):
        write_text(tmp_path / "file", "whole")
    with files.alone_in(tmp_path / "missing"):
        pass
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("command", ["calibrate", "export", "bench", "report"])
def test_a_read_only_folder_is_one_line_before_any_work(command, tmp_path, small_onnx, drawn, edgeq, monkeypatch):
    place = tmp_path / "results"
    place.mkdir()
    real = os.access
    monkeypatch.setattr(
        "edgeq.files.os.access", lambda path, mode: real(path, mode) and (path, mode) != (place, os.W_OK)
    )
    monkeypatch.setattr("edgeq.calibration.collector.Collector.run", lambda *_args, **_named: pytest.fail("worked"))
    monkeypatch.setattr("edgeq.measurement.benchmark.bench_jobs", lambda *_args, **_named: pytest.fail("worked"))
    (tmp_path / "bench.json").write_text(json.dumps([make_timing("fp32", 8.0)]))
    arguments = {
        "calibrate": (small_onnx, drawn.folder, "--preset", "centernet", "--out", place / "ranges.json"),
        "export": (small_onnx, "--preset", "centernet", "--out", place),
        "bench": (small_onnx, "--json", place / "bench.json"),
        "report": (tmp_path / "bench.json", "--out", place / "report.md"),
    }[command]
    outcome = edgeq(command, *arguments)
    assert outcome.code == 1
    assert "cannot be written" in outcome.error and "is read-only; choose another" in outcome.error
    assert list(place.iterdir()) == []


def test_a_folder_that_becomes_read_only_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "ranges.json"
    target.write_text("old")

    def read_only(**_named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("edgeq.files.tempfile.mkstemp", read_only)
    with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\); nothing was left behind"):
        write_text(target, "new")
    assert target.read_text() == "old"


def test_a_clock_that_is_set_back_or_forth_costs_no_file(tmp_path, monkeypatch):
    """Stamps decide only what is forgotten of caches; durations are those of the monotonic clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    log = JobLog.in_cache("bench", {"job": 1})
    log.add({"done": 1})
    young = tmp_path / f".x.{files._TEMPORARY}.json"
    young.write_text("of a living process")
    files._remove_orphans.cache_clear()
    monkeypatch.setattr("edgeq.files.time.time", lambda: 0.0)  # 1970
    write_text(tmp_path / "written.json", "whole")
    again = JobLog.in_cache("bench", {"job": 1})
    again.add({"done": 2})
    assert young.exists() and (tmp_path / "written.json").read_text() == "whole"
    assert again.parts() == [{"done": 1}, {"done": 2}]
    monkeypatch.undo()
    wrong = [
        f"{path.name}: {line.strip()}"
        for path in Path(files.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"time\.time\(\) -|- time\.time\(\)|datetime.*now\(.*\) -", line) and "st_mtime" not in line
    ]
    assert wrong == [], "a duration by a clock that people set; take time.monotonic()"
