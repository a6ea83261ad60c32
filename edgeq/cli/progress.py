"""Progress bars on a terminal: rate and time left, on stderr, and only if a person looks."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeq.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


def terminal_progress() -> Progress:
    """Returns a bar, or silence if stderr is not a terminal, so that logs and `--json` output stay clean."""
    return TerminalBar() if sys.stderr.isatty() else Silent()


class TerminalBar:
    """One bar; bars of several threads stand one below the other. With the unit "%" it shows neither count nor rate."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._drawn: tuple[RichProgress, TaskID] | None = None

    def start(self, total: int | None, label: str, unit: str) -> None:
        """Draws the bar."""
        display = self._stack.enter_context(_display.drawn())
        task = display.add_task(label, total=total, unit=unit)
        self._drawn = display, task
        self._stack.callback(_display.settle, display, task)

    def advance(self, count: int) -> None:
        """Moves the bar on."""
        if self._drawn is not None:
            display, task = self._drawn
            display.advance(task, count)

    def end(self) -> None:
        """Removes the bar, unless it is the last one."""
        self._stack.close()


class _Display:
    """What all bars are drawn in: a terminal has one place for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: RichProgress | None = None
        self._users = 0

    @contextlib.contextmanager
    def drawn(self) -> Iterator[RichProgress]:
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

    def settle(self, progress: RichProgress, task: TaskID) -> None:
        """Removes a bar that ended before the others; the last one stays on the screen."""
        with self._lock:
            if self._users > 1:
                progress.remove_task(task)


def _make_progress() -> RichProgress:
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
            done = int(task.completed)
            return Text(f"{done} {rate}" if task.total is None else f"{done}/{int(task.total)} {rate}")

    columns = (TextColumn("{task.description}"), BarColumn(), CountColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


_display = _Display()
