"""One progress bar for every long job: rate and time left, on stderr, and only where a person looks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress_bar(total: int, label: str, *, unit: str = "images") -> Iterator[Advance]:
    """Yields a function that moves the bar on by so many units.

    Nothing is drawn where stderr is not a terminal, so that logs and `--json` output stay clean.

    Args:
        total: Units in the whole job.
        label: What is being done.
        unit: Name of the units, for the rate; "%" shows neither count nor rate.
    """
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.1f} {unit}/s" if speed else f"- {unit}/s")

    counted: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), RateColumn())
    if unit == "%":
        counted = (TaskProgressColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
