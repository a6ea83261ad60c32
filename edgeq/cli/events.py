"""`--progress json`: what a long command reports, as one JSON object per line on stderr."""

from __future__ import annotations

import contextlib
import datetime
import inspect
import io
import itertools
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, get_type_hints

import typer

import edgeq
from edgeq.cli.words import said_of
from edgeq.progress import reporting_to

if TYPE_CHECKING:
    from edgeq.events import Event

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_EVERY_S = 0.1

ProgressOption = Annotated[
    Literal["bar", "json"],
    typer.Option(help="Progress on stderr: bars on a terminal, or json: one event per line."),
]


def with_progress(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command that has the option `--progress` besides its own."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [each.replace(annotation=hints[each.name]) for each in inspect.signature(command).parameters.values()]

    def run(*, progress: str, **arguments: Any) -> None:
        with writing_events(sys.stderr) if progress == "json" else contextlib.nullcontext():
            command(**arguments)

    option = inspect.Parameter("progress", inspect.Parameter.KEYWORD_ONLY, default="bar", annotation=ProgressOption)
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {**hints, "progress": ProgressOption}
    run.__signature__ = inspect.Signature([*parameters, option])  # type: ignore[attr-defined]
    return run


@contextlib.contextmanager
def writing_events(file: TextIO) -> Iterator[None]:
    """Writes all events of the block, its jobs, its messages on stderr and its end as lines of JSON.

    Args:
        file: Where to write. If it is closed at the other end, the command continues unheard.

    Raises:
        typer.Exit: the block failed as commands do; the last event says how.
    """
    from edgeq.cli.log import is_debugging
    from edgeq.events import CommandEnded, CommandStarted, heard_by

    stream = EventStream(file)
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    stream.write(CommandStarted(command=shlex.join(["edgeq", *sys.argv[1:]]), edgeq=edgeq.__version__, started=started))
    code, text = 1, None
    try:
        with heard_by(stream.write), reporting_to(stream.job), contextlib.redirect_stderr(_Messages(stream)):
            yield
        code = 0
    except typer.Exit as end:
        code = end.exit_code
        raise
    except KeyboardInterrupt:
        code, text = INTERRUPTED, "interrupted"
        raise typer.Exit(code) from None
    except typer.BadParameter as error:
        code, text = error.exit_code, error.format_message()
        raise typer.Exit(code) from None
    except Exception as error:
        text = said_of(error)
        if is_debugging():
            raise
        raise typer.Exit(code) from None
    finally:
        stream.write(CommandEnded(exit_code=code, error=text))


class EventStream:
    """Writes events as lines of JSON; `time_s` is the time since it was made.

    Args:
        file: Where to write.
    """

    def __init__(self, file: TextIO) -> None:
        self._file: TextIO | None = file
        self._begin_s = time.monotonic()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def write(self, event: Event) -> None:
        """Writes an event, from any thread; nothing once nobody reads."""
        import msgspec

        fields = msgspec.to_builtins(event)
        timed = {"event": fields.pop("event"), "time_s": round(time.monotonic() - self._begin_s, 3), **fields}
        line = msgspec.json.encode(timed).decode() + "\n"
        with self._lock:
            if self._file is None:
                return
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:  # the reader has gone: work of hours is not lost with it
                _discard(self._file)
                self._file = None

    def job(self) -> _JobEvents:
        """Returns what follows a new job."""
        return _JobEvents(self, next(self._numbers))


def _discard(file: TextIO) -> None:
    """Sends what was written to a file, and will be, nowhere: Python exits with code 120 if it cannot be flushed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class _JobEvents:
    """Writes the events of one job."""

    def __init__(self, stream: EventStream, number: int) -> None:
        self._stream = stream
        self._number = number
        self._done = 0
        self._written_s = -_EVERY_S

    def start(self, total: int | None, label: str, unit: str) -> None:
        """Writes what begins."""
        from edgeq.events import JobStarted

        self._stream.write(JobStarted(job=self._number, label=label, total=total, unit=unit))

    def advance(self, count: int) -> None:
        """Writes how far the job is, unless that was written a moment ago."""
        from edgeq.events import JobAdvanced

        self._done += count
        now_s = time.monotonic()
        if now_s - self._written_s >= _EVERY_S:
            self._written_s = now_s
            self._stream.write(JobAdvanced(job=self._number, done=self._done))

    def end(self) -> None:
        """Writes the end."""
        from edgeq.events import JobEnded

        self._stream.write(JobEnded(job=self._number, done=self._done))


class _Messages(io.TextIOBase):
    """Takes stderr's place: each line of text becomes an event."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        from edgeq.events import Message

        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self._stream.write(Message(text=line))
        return len(text)
