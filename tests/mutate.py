"""Thousands of damaged files of every kind that edgeq reads: `python -m tests.mutate --count 20000 --seed 1`.

Prints a table by kind. Each file is read in this process, under a limit of time; the memory that reading takes is
counted. What makes an engine's own code crash ends the run, and lies in the folder that is named first.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import logging
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from edgeq.machine import peak_rss_bytes, restart_peak_rss
from tests.mutated_kinds import KINDS, put
from tests.mutations import mutate_json, mutate_toml, surprise
from tests.test_mutations import JSON_KINDS, TOML_KINDS

LIMIT_S, LIMIT_BYTES = 10, 500 << 20

Changes = Iterator[tuple[str, bytes]]


@dataclass
class Tried:
    """What came of the changed files of a kind."""

    tried: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    most_bytes: int = 0


class _TooLong(BaseException):
    """A file is read for longer than the limit; no `except Exception` holds it back."""


def kinds(folder: Path) -> Iterator[tuple[str, Path, Callable[[Path], object], Callable[[int, int], Changes]]]:
    """Yields name, file, reader and changes of every kind."""
    for number, (name, (file, make, read)) in enumerate(JSON_KINDS.items()):
        path = _folder(folder / f"json{number}") / file
        document = make()
        path.write_text(json.dumps(document))
        yield f"{name} (JSON)", path, read, functools.partial(mutate_json, document)
    for name, (file, text, read) in TOML_KINDS.items():
        path = _folder(folder / name) / file
        path.write_text(text)
        yield f"{name} (TOML)", path, read, functools.partial(mutate_toml, text)
    for number, (name, kind) in enumerate(KINDS.items()):
        path = put(kind, folder / f"file{number}")
        yield name, path, kind.read, functools.partial(kind.change, path.read_bytes())


def try_kind(path: Path, read: Callable[[Path], object], changes: Changes) -> Tried:
    """Returns what came of reading changed files."""
    found = Tried()
    read(path)  # imports take time and memory, which are not the file's
    for name, content in changes:
        path.write_bytes(content)
        before, begun = restart_peak_rss() or 0, time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # readers of results print them
                said = surprise(path, read)
        except _TooLong:
            said = f"is read for more than {LIMIT_S} s"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        took_s, took_bytes = time.monotonic() - begun, (peak_rss_bytes() or 0) - before
        found.tried += 1
        found.longest_s, found.most_bytes = max(found.longest_s, took_s), max(found.most_bytes, took_bytes)
        if took_bytes > LIMIT_BYTES:
            said = said or f"takes {took_bytes >> 20} MB"
        if said:
            found.faults[said[:60]] += 1
            print(f"{path.name}: {name}: {said}", file=sys.stderr)
    return found


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="files over all kinds")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def main() -> None:
    """Reads the arguments, tries all kinds and prints the table."""
    arguments = make_parser().parse_args()
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _raise)
    with tempfile.TemporaryDirectory() as folder:
        print(f"in {folder}", file=sys.stderr)
        every = list(kinds(Path(folder)))
        print("| Kind | Tried | Longest | Memory | Faults |\n|---|--:|--:|--:|--:|")
        total = 0
        for name, path, read, change in every:
            found = try_kind(path, read, change(-(-arguments.count // len(every)), arguments.seed))
            total += found.tried
            print(
                f"| {name} | {found.tried:,} | {found.longest_s * 1e3:.0f} ms | {found.most_bytes / 1e6:.0f} MB | "
                f"{found.faults.total()} |",
                flush=True,
            )
        print(f"| all | {total:,} | | | |")


def _folder(path: Path) -> Path:
    path.mkdir()
    for name in ("3.png", "5.png"):
        (path / name).touch()
    return path


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise _TooLong


if __name__ == "__main__":
    main()
