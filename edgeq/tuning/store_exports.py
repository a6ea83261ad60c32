"""Trials of a store as tables for other programs: CSV, and Parquet through pyarrow."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgeq.errors import MissingDependencyError
from edgeq.files import atomic_path
from edgeq.tuning.store import Selection, Store, Timing, TrialKey, TrialRow

_KEYS = [field.name for field in fields(TrialKey)]
_TIMING = [field.name for field in fields(Timing)]
_TEXTS = frozenset({"engine", "machine"})
"""The words of a timing; all else of it are numbers."""


def write_csv(store: Store, selection: Selection, path: Path) -> None:
    """Writes trials as CSV, a line each, with a column for each fact and each measure in the store.

    Raises:
        InputError: the file cannot be written.
    """
    table = _Table(store)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table.columns)
        for batch in store.batches(selection):
            writer.writerows(map(table.cells, batch))


def write_parquet(store: Store, selection: Selection, path: Path) -> None:
    """Writes trials as Parquet, with the columns of the CSV and their types; what is unknown is null.

    Raises:
        InputError: the file cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pyarrow", "parquet", "Writing Parquet") from error
    table = _Table(store)
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
    with atomic_path(path) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for batch in store.batches(selection):
            columns = zip(*map(table.cells, batch), strict=True)
            arrays = [pyarrow.array(list(cells), field.type) for cells, field in zip(columns, schema, strict=True)]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


class _Table:
    """The columns of a store's trials, and a trial as cells."""

    def __init__(self, store: Store) -> None:
        self._facts = store.fact_names()
        self._measures = store.measure_names()

    @property
    def columns(self) -> dict[str, type]:
        """Name of a column -> type of its values."""
        found: dict[str, type] = {"number": int, **dict.fromkeys(self._facts, str), "images": int}
        found |= dict.fromkeys(self._measures, float)
        for name in _TIMING:
            found[f"timing_{name}"] = int if name == "runs" else str if name in _TEXTS else float
        return found | {f"{name}_digest": str for name in _KEYS}

    def cells(self, row: TrialRow) -> list[Any]:
        """Returns a trial as the values of the columns; `None` where it has none."""
        return list(self._cells(row))

    def _cells(self, row: TrialRow) -> Iterator[Any]:
        yield row.number
        yield from (row.facts.get(name) for name in self._facts)
        yield row.images
        yield from (row.measures.get(name) for name in self._measures)
        yield from (getattr(row.timing, name, None) for name in _TIMING)
        yield from vars(row.key).values()
