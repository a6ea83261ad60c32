"""What can still be read of a damaged store, as a new one.

SQLite stops at the first damaged page, so a table is asked for range by range: a range that fails is halved until what
is lost is single rows. Rows whose seal is broken are left out. SQLite's own `.recover` fails in Debian 12's sqlite3
3.40.1, and knows no seals.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.files import atomic_path
from edgeq.tuning import store_tables as tables
from edgeq.tuning.store import sound_measures, sound_timing

_MOST_FAILURES = 100_000
"""Ranges that may fail before the rest of a table is given up."""

_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
_TIMING = "median_ms, ratio, ratio_low, ratio_high, runs, engine, machine"


@dataclass(frozen=True)
class Salvaged:
    """How many rows could be read.

    Attributes:
        trials: Trials.
        predictions: Predictions of images.
        measures: Measures and timings.
    """

    trials: int
    predictions: int
    measures: int


def salvage(damaged: Path, out: Path) -> Salvaged:
    """Copies what can be read of a store into a new file, and returns how much that was.

    Trials keep their numbers. What is lost is computed again when a command needs it.

    Args:
        damaged: The store; it stays as it is.
        out: The new file.

    Raises:
        InputError: nothing can be read, it is a store of another version, or the new file exists or cannot be written.
    """
    if out.exists():
        raise InputError(f"{out}: exists; choose another name")
    if not damaged.is_file():
        raise InputError(f"{damaged}: no such file; wanted a store, which `edgeq tune` writes")
    with contextlib.closing(sqlite3.connect(damaged)) as source:
        source.text_factory = tables.lenient_text
        try:
            version, names = tables.stated_version(source), tables.table_names(source)
        except _UNREADABLE as error:
            raise InputError(f"{damaged}: nothing can be read of it ({error}); move it away to start over") from error
        if version != tables.VERSION or "trials" not in names:
            raise InputError(
                f"{damaged}: has no trials of a store of version {tables.VERSION}, so nothing can be salvaged; move it "
                "away to start over"
            )
        try:
            with atomic_path(out) as temporary, contextlib.closing(sqlite3.connect(temporary)) as target, target:
                tables.prepare(target, out)
                return _Copy(source, target).run()
        except sqlite3.Error as error:
            raise InputError(f"{out}: cannot be written ({error}); free space") from error


class _Copy:
    """Copies what can be read from one file into another."""

    def __init__(self, source: sqlite3.Connection, target: sqlite3.Connection) -> None:
        self._source = source
        self._target = target

    def run(self) -> Salvaged:
        self._add("contexts", 6, self._rows("SELECT * FROM contexts WHERE id BETWEEN ? AND ?", 0, 1 << 56))
        last_image = self._last("images")
        self._add("images", 2, self._rows("SELECT id, digest FROM images WHERE id BETWEEN ? AND ?", 1, last_image))
        self._add("images", 2, self._indexed("images"))
        images = {number: tables.expand(digest) for number, digest in self._target.execute("SELECT * FROM images")}
        query = "SELECT id, digest, context, plan, title, 0, made_s FROM trials WHERE id BETWEEN ? AND ?"
        self._add("trials", 7, self._rows(query, 1, self._last("trials")))
        self._add("trials", 7, ((*row, 0, "", None, 0, time.time()) for row in self._indexed("trials")))
        trials = dict(self._target.execute("SELECT id, digest FROM trials").fetchall())
        predictions = measures = 0
        for trial, digest in trials.items():
            count = self._copy_predictions(trial, digest, images, last_image)
            self._target.execute("UPDATE trials SET images = ? WHERE id = ?", (count, trial))
            predictions += count
            measures += self._copy_measures(trial, digest)
        return Salvaged(len(trials), predictions, measures)

    def _copy_predictions(self, trial: int, digest: bytes, images: dict[int, str], last_image: int) -> int:
        first = trial << tables.IMAGE_BITS
        rows = self._rows("SELECT id, content FROM predictions WHERE id BETWEEN ? AND ?", first, first + last_image)
        return self._add(
            "predictions",
            2,
            (
                (number, content)
                for number, content in rows
                if number - first in images and tables.unsealed(digest, images[number - first], content) is not None
            ),
        )

    def _copy_measures(self, trial: int, digest: bytes) -> int:
        query = "SELECT name, value, seal FROM measures WHERE trial BETWEEN ? AND ?"
        sound = sound_measures(digest, self._rows(query, trial, trial))
        rows = ((trial, name, value, tables.measure_seal(digest, name, value)) for name, value in sound.items())
        count = self._add("measures", 4, rows)
        timed = self._rows(f"SELECT id, {_TIMING}, seal, made_s FROM timings WHERE trial BETWEEN ? AND ?", trial, trial)  # noqa: S608 - ours
        whole = ((row[0], trial, *row[1:]) for row in timed if sound_timing(digest, row[1:-1]))
        return count + self._add("timings", 11, whole)

    def _add(self, table: str, columns: int, rows: Iterator[Any]) -> int:
        """Adds rows, and returns how many of them fit: damaged ones may lack a value, or repeat another's."""
        before = self._target.total_changes
        marks = ", ".join("?" * columns)
        self._target.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)  # noqa: S608 - ours
        return self._target.total_changes - before

    def _last(self, table: str) -> int:
        """Returns the largest number of a table; where that cannot be read, the largest in its index."""
        with contextlib.suppress(*_UNREADABLE, TypeError, ValueError):
            return int(self._source.execute(f"SELECT MAX(id) FROM {table}").fetchone()[0] or 0)  # noqa: S608 - ours
        return max((number for number, _ in self._indexed(table)), default=0)

    def _indexed(self, table: str) -> Iterator[tuple[Any, ...]]:
        """Yields number and digest of the rows of a table by its index, which holds both, up to where it is damaged."""
        with contextlib.suppress(*_UNREADABLE):
            yield from self._source.execute(f"SELECT id, digest FROM {table} ORDER BY digest")  # noqa: S608 - ours

    def _rows(self, query: str, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """Yields the rows of a query whose number lies in a range, but for those that cannot be read."""
        ranges, failures = [(first, last)], 0
        while ranges and failures < _MOST_FAILURES:
            begin, end = ranges.pop()
            try:
                rows = self._source.execute(query, (begin, end)).fetchall()
            except _UNREADABLE:
                failures += 1
                middle = (begin + end) // 2
                if begin < end:
                    ranges += [(middle + 1, end), (begin, middle)]
                continue
            yield from rows
