"""Progress bars on a terminal, several at the same time."""

from __future__ import annotations

import io
import sys
import threading

from edgeq.progress import labelled, progress_bar


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_off_a_terminal(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with progress_bar(3, "eval") as advance:
        advance(3)
    assert stderr.getvalue() == ""


def test_bars_of_several_threads_stand_together(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    both = threading.Barrier(2)

    def work(name: str, total: int, unit: str) -> None:
        with labelled(name), progress_bar(total, "bench", unit=unit) as advance:
            both.wait()
            advance(total)
            both.wait()

    threads = [
        threading.Thread(target=work, args=("pi5", 100, "%")),
        threading.Thread(target=work, args=("orin", 7, "MB")),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drawn = terminal.getvalue()
    assert "pi5: bench" in drawn
    assert "orin: bench" in drawn
    assert "7/7" in drawn or "100%" in drawn

    with progress_bar(2, "eval") as advance:  # the display begins anew
        advance(2)
    assert "eval" in terminal.getvalue()[len(drawn) :]
    assert "pi5" not in terminal.getvalue()[len(drawn) :]
