"""One progress bar for every long job: rate and time left, on stderr, and only where a person looks."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int], None]

_label: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="")


@contextlib.contextmanager
def labelled(name: str) -> Iterator[None]:
    """Puts a name before the labels of the bars that this thread draws in the block."""
    token = _label.set(f"{name}: ")
    try:
        yield
    finally:
        _label.reset(token)


@contextlib.contextmanager
def progress_bar(total: int, label: str, *, unit: str = "images") -> Iterator[Advance]:
    """Yields a function that moves the bar on by so many units.

    Nothing is drawn where stderr is not a terminal, so that logs and `--json` output stay clean. Bars that threads draw
    at the same time stand one below the other.

    Args:
        total: Units in the whole job.
        label: What is being done.
        unit: Name of the units, for the rate; "%" shows neither count nor rate.
    """
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    with _display.drawn() as progress:
        task = progress.add_task(f"{_label.get()}{label}", total=total, unit=unit)
        try:
            yield lambda count: progress.advance(task, count)
        finally:
            _display.settle(progress, task)


class _Display:
    """What all bars are drawn in: a terminal has one place for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._users = 0

    @contextlib.contextmanager
    def drawn(self) -> Iterator[Progress]:
        """Yields the display, which ends with the last of those who draw in it."""
        with self._lock:
            if self._progress is None:
                self._progress = _make_progress()
                self._progress.start()
            self._users += 1
            progress = self._progress
        try:
            yield progress
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    progress.stop()
                    self._progress = None

    def settle(self, progress: Progress, task: int) -> None:
        """Removes a bar that ended while others go on; the last one stays on the screen."""
        from rich.progress import TaskID

        with self._lock:
            if self._users > 1:
                progress.remove_task(TaskID(task))


def _make_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class CountColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            unit = task.fields["unit"]
            if unit == "%":
                return Text(f"{task.percentage:>3.0f}%")
            speed = task.finished_speed or task.speed
            rate = f"{speed:.1f} {unit}/s" if speed else f"- {unit}/s"
            return Text(f"{int(task.completed)}/{int(task.total or 0)} {rate}")

    columns = (TextColumn("{task.description}"), BarColumn(), CountColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


_display = _Display()
