"""What a kind of sensor is, and how its files and programs are read: bounded, and never with an exception.

The kernel's files under /sys come and go with hardware, drivers and power states; a sensor that is off fails to be
read, some answer nonsense. All of it is "not known", which is `None`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_BYTES = 4096
_TIMEOUT_S = 3.0
# More digits than any counter has would overflow a float later.
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_PROGRAM_FOLDERS = ("usr/bin", "usr/sbin", "usr/local/bin", "bin", "opt/vc/bin")


def _no_troubles(_briefs: Sequence[Any]) -> list[str]:
    return []


@dataclass(frozen=True)
class Sensor:
    """A kind of sensor.

    Attributes:
        read: Root folder -> everything that it tells, as JSON values; `None` on machines without it.
        brief: Reading -> what of it changes with time; `None` where that takes too long to be asked once a second, or
            nothing changes.
        troubles: Briefs of a run, in the order of time, at least one -> what throttled in its course, for people.
        on_gpu: Whether its troubles concern runs on a GPU only.
    """

    read: Callable[[Path], Any]
    brief: Callable[[Any], Any] | None = None
    troubles: Callable[[Sequence[Any]], list[str]] = _no_troubles
    on_gpu: bool = False


def read_text(path: Path) -> str | None:
    """Returns the first 4096 bytes of a file without the blanks and NULs around them."""
    try:
        with path.open("rb", buffering=0) as stream:
            content = stream.read(_MAX_BYTES)
    except (OSError, ValueError):
        return None
    return None if content is None else content.decode(errors="replace").strip("\0 \t\r\n")


def read_int(path: Path) -> int | None:
    """Returns the whole number that a file holds."""
    return parse_int(read_text(path))


def rises(briefs: Sequence[dict[str, int]]) -> dict[str, int]:
    """Returns name -> by how much a counter rose from the first brief to the last, for those that did."""
    first, last = briefs[0], briefs[-1]
    return {name: last[name] - count for name, count in first.items() if last.get(name, count) > count}


def parse_int(text: str | None) -> int | None:
    """Returns the whole number that a text is."""
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None


def listed(root: Path, pattern: str) -> list[Path]:
    """Returns what matches a pattern below `root`, `policy2` before `policy10`."""
    found: list[Path] = []
    with contextlib.suppress(OSError, ValueError):
        found += root.glob(pattern)
    return sorted(found, key=lambda path: [(len(part), part) for part in re.split(r"(\d+)", str(path))])


def present(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries that are known."""
    return {name: value for name, value in values.items() if value is not None}


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns name -> value; a name's second value goes by `name#2`."""
    named: dict[str, Any] = {}
    for name, value in pairs:
        number = 1 + sum(other == name or other.startswith(f"{name}#") for other in named)
        named[name if number == 1 else f"{name}#{number}"] = value
    return named


def ask(root: Path, program: str, *arguments: str, timeout_s: float = _TIMEOUT_S) -> str | None:
    """Returns what a program of this machine prints, or `None` if there is none, it fails, hangs or talks too long.

    Args:
        root: Folder of `usr/bin`; below another one than `/` the search path does not count.
        program: Its name.
        arguments: Its arguments; no shell sees them.
        timeout_s: How long it may take.
    """
    folders = os.pathsep.join(str(root / folder) for folder in _PROGRAM_FOLDERS)
    path = shutil.which(program, path=folders) or (shutil.which(program) if root == Path("/") else None)
    if path is None:
        return None
    try:
        process = subprocess.Popen(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A group of its own: what it starts in turn holds the pipe and has to end with it.
            start_new_session=True,
        )
    except OSError:
        return None
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    limit = threading.Timer(timeout_s, _end, [process])
    limit.start()
    try:
        with process.stdout:
            content = process.stdout.read(_MAX_BYTES)
            complete = not process.stdout.read(1)
        if not complete:
            _end(process)
        code = process.wait()
    finally:
        limit.cancel()
    return content.decode(errors="replace").strip() if complete and code == 0 else None


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
