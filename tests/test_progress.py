"""Who is told of the progress of jobs, and how the command line draws it."""

from __future__ import annotations

import contextvars
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgeq.cli import app
from edgeq.cli.progress import terminal_progress
from edgeq.devices.config import LOCAL, Device
from edgeq.inputs.images import list_images
from edgeq.progress import labelled, progress_bar, reporting_to
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.tensorrt.progress import BuildProgress
from edgeq.verbs.on_devices import _on_devices


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Listener:
    """Notes what every job tells it."""

    def __init__(self) -> None:
        self.jobs: list[list[Any]] = []

    def make(self) -> _Listener._Job:
        self.jobs.append([])
        return self._Job(self.jobs[-1])

    class _Job:
        def __init__(self, told: list[Any]) -> None:
            self._told = told

        def start(self, total: int | None, label: str, unit: str) -> None:
            self._told.append((total, label, unit))

        def advance(self, count: int) -> None:
            self._told.append(count)

        def end(self) -> None:
            self._told.append("end")


def test_a_listener_is_told_of_every_job_and_of_its_end():
    listener = _Listener()
    with reporting_to(listener.make):
        with progress_bar(3, "eval") as advance:
            advance(2)
            with labelled("pi5"), progress_bar(None, "send", unit="MB") as inner:
                inner(7)
        with pytest.raises(ValueError, match="broken"), progress_bar(1, "bench"):
            raise ValueError("broken")
    with progress_bar(5, "nobody listens any more") as advance:
        advance(5)
    assert listener.jobs == [
        [(3, "eval", "images"), 2, "end"],
        [(None, "pi5: send", "MB"), 7, "end"],
        [(1, "bench", "images"), "end"],
    ]


def test_a_library_call_is_silent_even_on_a_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(3, "eval") as advance:
        advance(3)
    assert terminal.getvalue() == ""


def test_jobs_of_several_devices_are_heard():
    listener = _Listener()

    def work(device: Device, remote: object) -> list[BenchResult]:
        with progress_bar(1, "bench"):
            return []

    with reporting_to(listener.make):
        _on_devices([Device(LOCAL), Device(LOCAL)], work, lambda _: None)
    assert listener.jobs == [[(1, "local: bench", "images"), "end"]] * 2


def test_a_build_is_heard_from_whatever_thread_tensorrt_calls():
    listener = _Listener()
    with reporting_to(listener.make), labelled("orin"):
        build = BuildProgress("build net")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.Context().run, build.start, "phase", None, 4).result()
        pool.submit(contextvars.Context().run, build.step, "phase").result()
    build.close()
    assert listener.jobs == [[(4, "orin: build net", "%"), 1, "end"]]


def test_the_command_line_listens(edgeq, monkeypatch, small_onnx, drawn, tmp_path):
    listener = _Listener()
    monkeypatch.setattr(app, "terminal_progress", listener.make)
    paths = list_images(drawn.folder)[:3]
    (tmp_path / "list.txt").write_text("\n".join(map(str, paths)))
    arguments = ["--preset", "centernet", "--out", tmp_path / "ranges.json"]
    assert edgeq("calibrate", small_onnx, tmp_path / "list.txt", *arguments).code == 0
    assert listener.jobs == [[(3, "calibrate", "images"), 1, 1, 1, "end"]]


def test_nothing_is_drawn_off_a_terminal(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with reporting_to(terminal_progress), progress_bar(3, "eval") as advance:
        advance(3)
    assert stderr.getvalue() == ""


def test_bars_of_several_threads_stand_together(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    both = threading.Barrier(3)

    def work(name: str, total: int | None, unit: str) -> None:
        with reporting_to(terminal_progress), labelled(name), progress_bar(total, "bench", unit=unit) as advance:
            both.wait()
            advance(total or 9)
            both.wait()
            if total is not None:  # the bar that ends last stays, and is drawn with its full count
                threads[-1].join()

    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in (("pi5", 100, "%"), ("orin", 7, "MB"), ("stream", None, "images"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drawn = terminal.getvalue()
    assert "pi5: bench" in drawn
    assert "orin: bench" in drawn
    assert "stream: bench" in drawn
    assert "7/7" in drawn or "100%" in drawn

    with reporting_to(terminal_progress), progress_bar(2, "eval") as advance:  # the display begins anew
        advance(2)
    assert "eval" in terminal.getvalue()[len(drawn) :]
    assert "pi5" not in terminal.getvalue()[len(drawn) :]
