"""What an interrupted job has kept, and what of it the next run takes."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from edgeq.errors import InputError, MismatchError
from edgeq.resume import JobLog


@pytest.fixture
def log(tmp_path) -> JobLog:
    return JobLog(tmp_path / "deep" / "job.jsonl", {"model": "a"})


def test_parts_come_back_in_order(log):
    assert log.parts() == []
    parts = [{"image": 1}, {"image": 2, "text": "line\nbreak"}]
    for part in parts:
        log.add(part)
    assert JobLog(log.path, {"model": "a"}).parts() == parts
    log.remove()
    log.remove()
    assert log.parts() == []


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_a_line_that_was_cut_does_not_count_and_harms_no_other(log, size):
    log.add({"image": 1})
    log.add({"image": 2})
    content = log.path.read_bytes()
    log.path.write_bytes(content[:-size])
    log.add({"image": 3})
    expected = [{"image": 1}, {"image": 3}]
    assert log.parts() in (expected, [{"image": 1}, {"image": 2}, {"image": 3}])
    assert (len(log.parts()) == 3) == (size == 1)  # only the line's end is lost


def test_lines_of_another_kind_are_left_out(log):
    log.add({"image": 1})
    with log.path.open("ab") as stream:
        stream.write(b'[1]\n{"job": 1}\n{"part": {}}\n\xff\n' + b"[" * 100_000 + b"\n")
    assert log.parts() == [{"image": 1}]


def test_the_parts_of_another_job_are_refused(log):
    log.add({"image": 1})
    other = JobLog(log.path, {"model": "b"})
    with pytest.raises(MismatchError, match=r"job\.jsonl belongs to another job"):
        other.parts()
    other.add({"image": 2})
    assert other.parts() == [{"image": 2}]
    assert log.parts() == [{"image": 1}]


def test_logs_in_the_cache_are_told_apart_by_their_job(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = (JobLog.in_cache("eval", {"key": number, "also": 0}) for number in (1, 2))
    one.add({"image": 1})
    assert other.parts() == []
    assert JobLog.in_cache("eval", {"also": 0, "key": 1}).parts() == [{"image": 1}]
    assert JobLog.in_cache("bench", {"key": 1, "also": 0}).parts() == []


def test_logs_that_nobody_resumes_are_deleted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old, young = (JobLog.in_cache("eval", {"key": number}) for number in (1, 2))
    for log, days in ((old, 31), (young, 29)):
        log.add({"image": 1})
        then = time.time() - days * 24 * 3600
        os.utime(log.path, (then, then))
    JobLog.in_cache("eval", {"key": 3})
    assert not old.path.exists()
    assert young.parts() == [{"image": 1}]


def _add_many(path: Path, number: int) -> None:
    log = JobLog(path, {"model": "a"})
    for index in range(50):
        log.add({"who": number, "index": index, "text": "x" * 20_000})


def test_the_lines_of_two_processes_do_not_mix(log):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_many, args=(log.path, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    parts = log.parts()
    assert sorted((part["who"], part["index"]) for part in parts) == [
        (who, index) for who in (0, 1) for index in range(50)
    ]


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"job\.jsonl: cannot be written"):
        JobLog(tmp_path / "file" / "job.jsonl", {}).add({})
