"""Notes about files that are written: logged by modules, and left out where the like of a file was noted before.

    _log = log_of(__name__)

    with without_notes():
        write_again()

Whether notes are left out is a matter of one context, as a thread is one: other threads of the process, which may be a
service that writes two models at once, lose nothing, and no level of a log is changed.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections.abc import Iterator

_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)


def log_of(module: str) -> logging.Logger:
    """Returns the log of a module, by its name, whose notes `without_notes` leaves out."""
    log = logging.getLogger(module)
    log.addFilter(_is_wanted)
    return log


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Logs nothing below an error in the block, which does again what was done, and noted, before.

    This holds for the thread of the block. A new thread logs everything unless it runs in a copy of this thread's
    context (`contextvars.copy_context`).
    """
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not _silent.get()
