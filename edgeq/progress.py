"""How long jobs report their progress; who listens is decided by the caller, and by default nobody does.

The command line listens with bars on a terminal (`edgeq.cli.progress`). A program listens with a class of its own:

    class Lines:
        def start(self, total, label, unit): print(f"{label}: {total} {unit}")
        def advance(self, count): ...
        def end(self): ...

    with reporting_to(Lines):
        calibrate(model, images)
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Follows one job, from one thread; jobs that run at the same time have one each."""

    def start(self, total: int | None, label: str, unit: str) -> None:
        """Begins.

        Args:
            total: Units in the whole job; `None` if that is not known beforehand.
            label: What is being done.
            unit: Name of the units; "%" for shares of a whole.
        """

    def advance(self, count: int) -> None:
        """Takes note of so many further units."""

    def end(self) -> None:
        """Ends, also after an error."""


class Silent:
    """Listens to nothing."""

    def start(self, total: int | None, label: str, unit: str) -> None:
        """Begins."""

    def advance(self, count: int) -> None:
        """Takes note of so many further units."""

    def end(self) -> None:
        """Ends."""


_listener: contextvars.ContextVar[Callable[[], Progress]] = contextvars.ContextVar("listener", default=Silent)
_label: contextvars.ContextVar[str] = contextvars.ContextVar("label", default="")


@contextlib.contextmanager
def reporting_to(make: Callable[[], Progress]) -> Iterator[None]:
    """Has every job that starts in the block report to a `Progress` of its own.

    This holds for the thread of the block. A new thread starts without a listener unless it runs in a copy of this
    thread's context (`contextvars.copy_context`).

    Args:
        make: Returns the `Progress` of one job: a class, or a function.
    """
    token = _listener.set(make)
    try:
        yield
    finally:
        _listener.reset(token)


@contextlib.contextmanager
def labelled(name: str) -> Iterator[None]:
    """Puts a name before the labels of the jobs that this thread starts in the block."""
    token = _label.set(f"{name}: ")
    try:
        yield
    finally:
        _label.reset(token)


@contextlib.contextmanager
def progress_bar(total: int | None, label: str, *, unit: str = "images") -> Iterator[Advance]:
    """Yields a function that reports so many further units of a job to whoever listens.

    Args:
        total: Units in the whole job; `None` if that is not known beforehand.
        label: What is being done.
        unit: Name of the units; "%" for shares of a whole.
    """
    progress = _listener.get()()
    progress.start(total, f"{_label.get()}{label}", unit)
    try:
        yield progress.advance
    finally:
        progress.end()
