"""Who holds a lock of a file, as Linux says it: nothing that a process has written, and no process id, is trusted.

A process is a holder if it has the file open and the kernel states a lock of that opening (`/proc/PID/fdinfo`). So one
that ended is none, nor a later process with its id. Processes of other users, of other containers, and all of them on
other systems than Linux, are not seen.
"""

from __future__ import annotations

import os
import shlex
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from edgeq.wording import printable

_PROC = Path("/proc")
_STOPPED = "Tt"
"""States of a process that a signal or a debugger has stopped."""

_COMMAND_LENGTH = 90
_STATE, _START = 0, 19
"""Fields of `/proc/PID/stat` behind the name of the process: its state, and its start in ticks after that of Linux."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        pid: Its id.
        command: Its command line, shortened.
        since_s: As `time.time`: when it was started, or, if it holds the lock alone, when the file was touched last.
        alone: Whether it lets nobody else hold the lock.
        is_stopped: Whether a signal or a debugger has stopped it.
    """

    pid: int
    command: str
    since_s: float
    alone: bool
    is_stopped: bool

    def __str__(self) -> str:
        """Returns that somebody waits for it, since when it is there, and what to do if it is stopped."""
        same_day = time.strftime("%j %Y", time.localtime(self.since_s)) == time.strftime("%j %Y")
        since = time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", time.localtime(self.since_s))
        doing = "has been measuring since" if self.alone else "computes and was started at"
        text = f"waiting for process {self.pid} ({self.command}), which {doing} {since}"
        if not self.is_stopped:
            return text
        return f"{text} and is stopped now: continue it (kill -CONT {self.pid}) or end it (kill -KILL {self.pid})"


def holders_of(path: Path) -> list[Holder]:
    """Returns the processes that hold a lock (`flock`) of a file, by their ids."""
    found = (_holder(pid, path) for pid in sorted(int(each.name) for each in _PROC.glob("[0-9]*")))
    return [each for each in found if each is not None]


def _holder(pid: int, path: Path) -> Holder | None:
    """Returns a process as a holder; `None` if it is none, ends meanwhile, or cannot be read."""
    process = _PROC / str(pid)
    try:
        locks = [
            (process / "fdinfo" / each.name).read_text()
            for each in (process / "fd").iterdir()
            if each.readlink().name == path.name and each.samefile(path)
        ]
        kinds = [line.split() for text in locks for line in text.splitlines() if "FLOCK" in line.split()]
        if not kinds:
            return None
        alone = any("WRITE" in kind for kind in kinds)
        state = (process / "stat").read_text().rpartition(")")[2].split()
        since = _booted_s() + int(state[_START]) / os.sysconf("SC_CLK_TCK")
        if alone:
            since = max(since, path.stat().st_mtime)
        words = (process / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (OSError, ValueError, IndexError):
        return None
    command = textwrap.shorten(printable(shlex.join(words)), _COMMAND_LENGTH, placeholder=" ...")
    return Holder(pid, command, since, alone, state[_STATE] in _STOPPED)


def _booted_s() -> float:
    """Returns when Linux was started, as `time.time`."""
    lines = (_PROC / "stat").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("btime ")))
