"""Writes a report as a page for people, or as a table or JSON of the same figures."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.files import write_json, write_text
from edgeq.reporting.build import build_document
from edgeq.reporting.compiled import FIGURES, NOTE, TEXTS, cells
from edgeq.reporting.document import Document, Entry
from edgeq.reporting.runs import Runs
from edgeq.reporting.verdict import MAX_DROP
from edgeq.results.rows import Row
from edgeq.results.table import Column, markdown_table, to_markdown

EXAMPLES = 6
"""Images of each model on which two files are shown side by side."""

# A cell that begins like this is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def require_format(out: Path) -> None:
    """Checks that a report can be written under this name.

    Raises:
        InputError: its extension is none of .html, .md, .csv and .json.
        MissingDependencyError: it is .html, and a package for that is not installed.
    """
    if out.suffix.lower() not in _WRITERS:
        raise InputError(f"{out}: is of no known format; wanted the name of a file that ends in {', '.join(_WRITERS)}")
    if out.suffix.lower() == ".html":
        from edgeq.reporting.page import require_packages

        require_packages()


def write_report(
    runs: Runs, out: Path, *, images_dirs: Sequence[Path] = (), examples: int = EXAMPLES, max_drop: float = MAX_DROP
) -> None:
    """Writes a report in the format that the extension of `out` names.

    Args:
        runs: What it is about.
        out: A file that ends in .html, .md, .csv or .json.
        images_dirs: Folders of the scored images, for the page; boxes on others are drawn on empty ground.
        examples: Most images of each model on which two files are shown side by side.
        max_drop: Points of the score that a file may lose, for the verdicts.

    Raises:
        InputError: the format is unknown, predictions are damaged, or a file cannot be written or an image read.
        MissingDependencyError: a package for .html is not installed.
    """
    require_format(out)
    for folder in images_dirs:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; wanted the images that were scored")
    document = dataclasses.replace(
        build_document(runs, examples=examples, max_drop=max_drop),
        written=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    _WRITERS[out.suffix.lower()](runs, document, out, images_dirs)


def to_csv(document: Document) -> str:
    """Returns the overview, one line a row; what was not measured is empty.

    Raises:
        InputError: there is no row.
    """
    if not document.entries:
        raise InputError("no result of `edgeq bench` or `edgeq eval`, and .csv holds these alone; choose .html or .md")
    names = [name for entry in document.entries for name in entry.scores]
    scores = [name for name in dict.fromkeys(names) if name not in {each.name for each in dataclasses.fields(Entry)}]
    lines = [_csv_cells(entry, scores) for entry in document.entries]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: safe_cell(value) for key, value in line.items()} for line in lines)
    return stream.getvalue()


def _csv_cells(entry: Entry, scores: list[str]) -> dict[str, Any]:
    fields = {each.name: getattr(entry, each.name) for each in dataclasses.fields(entry)}
    drop = fields.pop("drop")
    numbers: Mapping[str, float | None] = fields.pop("scores")
    lists = {name: "; ".join(fields.pop(name)) for name in ("unstable_reasons", "tools", "commands")}
    points = (None, None, None) if drop is None else (drop.points, drop.low, drop.high)
    drops = dict(zip(("drop_points", "drop_low", "drop_high"), points, strict=True))
    return {**fields, **drops, **lists, **{name: numbers.get(name) for name in scores}}


def safe_cell(value: Any) -> Any:
    """Returns a cell of a table that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _markdown(runs: Runs, document: Document, out: Path, _images_dirs: Sequence[Path]) -> None:
    drops = {
        id(row): entry.drop.points
        for row, entry in zip(runs.rows, document.entries, strict=True)
        if entry.drop is not None and not row.is_float
    }

    def drop(row: Row) -> float | None:
        return drops.get(id(row))

    parts = [f"- {document.entry(each.entry).model}: {each.sentence}" for each in document.verdicts]
    parts = ["\n".join(parts) + "\n"] if parts else []
    parts += [to_markdown(runs.rows, [Column("points below FP32", drop, 2)])] if runs.rows else []
    if document.compiled:
        table = markdown_table((*TEXTS, *FIGURES), [cells(each) for each in document.compiled], len(FIGURES))
        parts.append(f"{table}\n\n{NOTE}\n")
    write_text(out, "\n".join(parts))


def _html(_runs: Runs, document: Document, out: Path, images_dirs: Sequence[Path]) -> None:
    from edgeq.reporting.page import render

    write_text(out, render(document, images_dirs))


def _csv(_runs: Runs, document: Document, out: Path, _images_dirs: Sequence[Path]) -> None:
    write_text(out, to_csv(document))


def _json(_runs: Runs, document: Document, out: Path, _images_dirs: Sequence[Path]) -> None:
    write_json(out, document.to_json())


_WRITERS: dict[str, Callable[[Runs, Document, Path, Sequence[Path]], None]] = {
    ".html": _html,
    ".md": _markdown,
    ".csv": _csv,
    ".json": _json,
}
