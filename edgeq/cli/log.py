"""What the command line prints of warnings."""

from __future__ import annotations

import logging
import os
import sys

from edgeq.cli.words import as_options
from edgeq.wording import printable


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: while a progress bar is drawn, it prints above itself.

    What was said in this run is not said again: several steps of a command open the same file and find the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = as_options(printable(self.format(record), keep="\n"))
        if line not in self._said:
            print(line, file=sys.stderr)
        if not is_debugging():
            self._said.add(line)


def configure_logging() -> None:
    """Has edgeq's log go to stderr, one line for each entry."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("edgeq")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if is_debugging() else logging.INFO)
    logging.addLevelName(logging.WARNING, "warning")


def is_debugging() -> bool:
    """Returns whether `EDGEQ_DEBUG=1` asks for tracebacks."""
    return os.environ.get("EDGEQ_DEBUG") == "1"
