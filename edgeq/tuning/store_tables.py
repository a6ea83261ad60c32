"""The tables of a store, and how those of an older edgeq become today's.

What repeats has a table of its own: images and contexts are written once, and rows name them by number. A prediction's
row is one integer of its trial and its image, so the predictions of a trial lie side by side and need no index.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from edgeq.errors import InputError
from edgeq.packing import PackedArray, arrays_to_bytes, unpack_array

VERSION = 2
"""Of the tables."""

MARK = 0x65646765
"""SQLite's application id of a store ("edge")."""

IMAGE_BITS = 32
"""Of a prediction's number, those of its image; the others are those of its trial."""

PLAN_FACT = "plan"
"""What a trial's plan is called among its facts; all other facts are those of its context."""

_TABLES = """
CREATE TABLE contexts (
    id INTEGER PRIMARY KEY, model NOT NULL, data NOT NULL, engine NOT NULL, machine NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE trials (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, context INTEGER NOT NULL REFERENCES contexts, plan NOT NULL,
    title TEXT, images INTEGER NOT NULL DEFAULT 0, made_s REAL NOT NULL
);
CREATE TABLE images (id INTEGER PRIMARY KEY, digest NOT NULL UNIQUE);
CREATE TABLE predictions (id INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE measures (
    trial INTEGER NOT NULL REFERENCES trials, name TEXT NOT NULL, value REAL NOT NULL, seal INTEGER NOT NULL,
    PRIMARY KEY (trial, name)
) WITHOUT ROWID;
CREATE TABLE timings (
    id INTEGER PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials, median_ms REAL NOT NULL, ratio REAL,
    ratio_low REAL, ratio_high REAL, runs INTEGER NOT NULL, engine TEXT NOT NULL, machine TEXT NOT NULL,
    seal INTEGER NOT NULL, made_s REAL NOT NULL
);
CREATE INDEX timings_by_trial ON timings (trial);
"""
_NAMES = frozenset({"contexts", "trials", "images", "predictions", "measures", "timings"})
_NAMES_V1 = frozenset({"trials", "predictions", "measures"})
_HEX = frozenset("0123456789abcdef")
_MAX_BYTES = 64 << 20

_log = logging.getLogger(__name__)


class DamagedError(sqlite3.DatabaseError):
    """What a file of SQLite lacks to be a store."""


def compact(text: str) -> str | bytes:
    """Returns a digest in hexadecimal digits as its bytes, and any other text as it is."""
    return bytes.fromhex(text) if len(text) == 64 and _HEX.issuperset(text) else text


def expand(value: Any) -> str:
    """Returns what `compact` was given."""
    return value.hex() if isinstance(value, bytes) else str(value)


def seal(trial: bytes, *parts: bytes) -> int:
    """Returns a checksum of a row with its trial's digest: a row that was damaged, or is not that trial's, has another.

    SQLite has none, and what is salvaged from a damaged file may lack the trial or the image that a number was for.
    """
    found = zlib.crc32(trial)
    for part in parts:
        found = zlib.crc32(part, found)
    return found


def lenient_text(content: bytes) -> str:
    """Returns text of SQLite, also where a damaged file has none: SQLite itself would say that the disk is full."""
    return content.decode(errors="replace")


def as_digest(value: Any) -> bytes:
    """Returns the digest of a trial as its column has it; an empty one if that is damaged."""
    return value if isinstance(value, bytes) else b""


def measure_seal(trial: bytes, name: str, value: float) -> int:
    """Returns the seal of a measure."""
    return seal(trial, name.encode(), struct.pack("<d", value))


def sealed(trial: bytes, image: str, content: bytes) -> bytes:
    """Returns a prediction as its row has it: behind its seal."""
    return struct.pack("<I", seal(trial, image.encode(), content)) + content


def unsealed(trial: bytes, image: str, row: Any) -> bytes | None:
    """Returns the prediction that `sealed` was given; `None` if the row is damaged."""
    if not isinstance(row, bytes) or row != sealed(trial, image, row[4:]):
        return None
    return row[4:]


def span(trial: int) -> tuple[int, int]:
    """Returns the first and the last number that a trial's predictions may have."""
    return trial << IMAGE_BITS, (trial + 1 << IMAGE_BITS) - 1


def parse_facts(text: Any) -> dict[str, str]:
    """Returns facts as their column has them; nothing if it is damaged."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return {str(name): str(value) for name, value in json.loads(str(text)).items()}
    return {}


def context_row(keys: Sequence[str], facts: Mapping[str, str]) -> tuple[Any, ...]:
    """Returns the row of a context: its number is made from what it holds, so that it is never another one's.

    Args:
        keys: Digests of model, data, engine and machine.
        facts: The same in words.
    """
    text = json.dumps(dict(facts), sort_keys=True)
    number = int.from_bytes(sha256(json.dumps([*keys, text]).encode()).digest()[:7], "big")
    return (number, *map(compact, keys), text)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables of a new store, or converts those of an older one; within a transaction.

    Raises:
        InputError: it is no store, or a newer edgeq made it.
        DamagedError: a table is missing.
    """
    names, mark, version = table_names(connection), _pragma(connection, "application_id"), stated_version(connection)
    if mark == 0 and not names:
        _make(connection)
        return
    if mark != MARK:
        raise InputError(f"{path}: is a SQLite file, but no store of edgeq; choose another name")
    if version > VERSION or version < 1:
        raise InputError(f"{path}: is a store of version {version}, this edgeq reads {VERSION}; update edgeq")
    if missing := (_NAMES_V1 if version == 1 else _NAMES) - names:
        raise DamagedError(f"its table {min(missing)} is missing")
    if version == 1:
        _convert(connection, path)
    _state(connection)


def is_ready(connection: sqlite3.Connection) -> bool:
    """Returns whether a file holds today's tables, so that `prepare` has nothing to do."""
    marks = _pragma(connection, "application_id"), stated_version(connection)
    return marks == (MARK, VERSION) and table_names(connection) >= _NAMES


def table_names(connection: sqlite3.Connection) -> set[str]:
    """Returns the names of the tables of a file."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def stated_version(connection: sqlite3.Connection) -> int:
    """Returns the version of the tables that a file states."""
    return _pragma(connection, "user_version")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _make(connection: sqlite3.Connection) -> None:
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    _state(connection)


def _state(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {MARK}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


# From version 1 -------------------------------------------------------------------------------------------------------


def _convert(connection: sqlite3.Connection, path: Path) -> None:
    """Moves what version 1 holds into today's tables, in the one transaction of the caller."""
    _log.warning("%s: is converted from version 1 of the store, which older versions of edgeq read", path)
    connection.create_function("compact", 1, compact, deterministic=True)
    for name in _NAMES_V1:
        connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    _make(connection)
    digests = _convert_trials(connection)
    connection.execute("INSERT INTO images (digest) SELECT DISTINCT compact(image) FROM old_predictions")
    connection.executemany("INSERT INTO predictions VALUES (?, ?)", _converted_predictions(connection, digests))
    connection.executemany(
        "UPDATE trials SET images = (SELECT COUNT(*) FROM predictions WHERE id BETWEEN ? AND ?) WHERE id = ?",
        [(*span(trial), trial) for trial in digests],
    )
    connection.executemany(
        "INSERT INTO measures VALUES (?, ?, ?, ?)",
        (
            (trial, name, value, measure_seal(digests[trial], name, value))
            for trial, name, value in connection.execute("SELECT trial, name, value FROM old_measures")
            if trial in digests
        ),
    )
    for name in _NAMES_V1:
        connection.execute(f"DROP TABLE old_{name}")


def _convert_trials(connection: sqlite3.Connection) -> dict[int, bytes]:
    """Converts the trials, and returns number -> digest."""
    digests = {}
    query = "SELECT id, digest, model, data, engine, machine, plan, facts, made_s FROM old_trials"
    for number, digest, *keys, plan, text, made_s in connection.execute(query):
        facts = parse_facts(text)
        title = facts.pop(PLAN_FACT, None)
        context = context_row(keys, facts)
        digests[number] = bytes.fromhex(digest)
        connection.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?, ?, ?, ?, ?)", context)
        row = (number, digests[number], context[0], compact(plan), title, made_s)
        connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, 0, ?)", row)
    return digests


def _converted_predictions(connection: sqlite3.Connection, digests: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yields rows of predictions; what is no prediction is left out, and computed again when it is needed."""
    query = (
        "SELECT o.trial, i.id, o.image, o.prediction FROM old_predictions o "
        "JOIN images i ON i.digest = compact(o.image) ORDER BY o.trial, i.id"
    )
    for trial, number, image, text in connection.execute(query):
        try:
            packed = msgspec.json.decode(text, type=dict[str, PackedArray])
            content = arrays_to_bytes({name: unpack_array(each, _MAX_BYTES) for name, each in packed.items()})
            yield (trial << IMAGE_BITS) + number, sealed(digests[trial], image, content)
        except (KeyError, ValueError, TypeError, msgspec.MsgspecError):
            continue
