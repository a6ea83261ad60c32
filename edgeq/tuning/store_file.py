"""The file of a store: opening it, transactions, and what SQLite raises as one line that says what to do."""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from edgeq.errors import InputError
from edgeq.tuning.store_tables import is_ready, lenient_text, parse_facts, prepare

_WAIT_S = 60.0
"""How long a process waits for the others to finish their transactions."""

PARAMETERS = 500
"""Values of one statement."""


AnyStore = TypeVar("AnyStore", bound="StoreFile")


class StoreFile:
    """A file of SQLite with the tables of a store.

    Args:
        path: The file. One of an older version is converted.
        create: Whether it is made where there is none.

    Raises:
        InputError: there is none, it cannot be made, is damaged, no store, or a newer edgeq made it.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        self.path = path
        if not create and not path.is_file():
            raise InputError(f"{path}: no such file; wanted a store, which `edgeq tune` writes")
        with self._said():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self: AnyStore) -> AnyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _open(self) -> None:
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.text_factory = lenient_text
        self._connection.create_function("has_model", 2, _has_model, deterministic=True)
        if not is_ready(self._connection):
            with self._transaction() as connection:
                prepare(connection, self.path)
        with contextlib.suppress(sqlite3.OperationalError):  # busy: another process is about to do the same
            self._connection.execute("PRAGMA journal_mode = WAL")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._said():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # what went wrong first is what counts
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Turns what SQLite raises into one line that says what to do."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{self.path}: {self._advice(error)}") from error

    def _advice(self, error: Exception) -> str:
        """Returns what is wrong with the file, and what to do about it."""
        operational = isinstance(error, (sqlite3.OperationalError, OSError)) and "malformed" not in str(error)
        if operational and "locked" in str(error):
            return "another process writes to it for too long; try again"
        if operational:
            return f"cannot be used ({error}); free space, or choose another file"
        command = f"edgeq runs {shlex.quote(str(self.path))} --salvage salvaged.sqlite"
        return f"is damaged ({error}); salvage what can be read with `{command}`, or move it away to start over"

    def _each(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Returns the rows of a query for all values, which it has in place of `{}`."""
        rows: list[tuple[Any, ...]] = []
        for begin in range(0, len(values), PARAMETERS):
            part = values[begin : begin + PARAMETERS]
            rows += self._connection.execute(query.format(", ".join("?" * len(part))), part)
        return rows


def _has_model(facts: Any, part: str) -> bool:
    return part in parse_facts(facts).get("model", "").lower()
