"""What the command line prints: tables for people, on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from edgeq.verbs.report import REPORT, Column, Row, header, provenance, table

if TYPE_CHECKING:
    from edgeq.verbs.doctor import Diagnosis

# A pipe has no width; rich would fold tables at 80 columns.
_PIPE_WIDTH = 1000
_STYLES = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "red"}

Cells = Sequence[Sequence[str]]


def print_report(rows: Sequence[Row], columns: Sequence[Column] = REPORT) -> None:
    """Prints a table of results without its empty columns, and below it how every figure was obtained.

    A terminal that is too narrow gets each artifact's name on a line of its own.
    """
    cells = table(rows, columns)
    shown = [i for i in range(len(columns) + 2) if i < 2 or any(row[i] != "-" for row in cells)]
    titles = [header(columns)[i] for i in shown]
    cells = [tuple(row[i] for i in shown) for row in cells]
    console = _console()
    layouts = (_one_line_a_row(titles, cells), _by_artifact(titles, cells, 2), _by_artifact(titles, cells, 1))
    fitting = (each for each in layouts if max(cell_len(line) for line in chain(*each)) <= console.width)
    _print_lines(console, *next(fitting, layouts[-1]))
    for sentence in provenance(rows):
        console.print(sentence, style="dim", soft_wrap=True, markup=False)


def print_classes(scores: Mapping[str, Any]) -> None:
    """Prints the scores of each class that the images hold, from a result of `edgeq eval`."""
    keys = ("ap", "ap50", "ar_100")
    cells = [
        (entry["name"], str(entry["boxes"]), *(f"{entry[key]:.4f}" for key in keys))
        for entry in scores["per_class"]
        if entry["boxes"]
    ]
    top, *lines = _align([("class", "boxes", "AP", "AP50", "AR"), *cells], left=1)
    _print_lines(_console(), [top], lines)


def _one_line_a_row(titles: Sequence[str], cells: Cells) -> tuple[list[str], list[str]]:
    top, *lines = _align([titles, *cells], left=2)
    return [top], lines


def _by_artifact(titles: Sequence[str], cells: Cells, gap: int) -> tuple[list[str], list[str]]:
    # Titles are broken at their spaces: "memory" above "MB", "time /" above "FP32".
    broken = [re.split(" (?!/)", title) for title in titles[1:]]
    height = max(map(len, broken))
    heads = [[""] * (height - len(words)) + words for words in broken]
    runtimes = [(f"  {runtime}", *figures) for _, runtime, *figures in cells]
    aligned = _align([*zip(*heads, strict=True), *runtimes], left=1, gap=gap)
    lines: list[str] = []
    previous = ""
    for (artifact, *_), line in zip(cells, aligned[height:], strict=True):
        lines += [line] if artifact == previous else [artifact, line]
        previous = artifact
    return aligned[:height], lines


def _align(rows: Cells, *, left: int, gap: int = 2) -> list[str]:
    """Returns one line for each row of cells: the first `left` columns aligned to the left, figures to the right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padding = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        names = [cell + space for cell, space in zip(row[:left], padding, strict=False)]
        figures = [space + cell for cell, space in zip(row[left:], padding[left:], strict=True)]
        lines.append((" " * gap).join([*names, *figures]).rstrip())
    return lines


def _print_lines(console: Console, top: Sequence[str], lines: Sequence[str]) -> None:
    for line in top:
        console.print(line, style="bold", soft_wrap=True, markup=False)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Prints what `edgeq doctor` found, with what to do about it."""
    machine = diagnosis.machine
    console = _console()
    console.print(f"edgeq {diagnosis.edgeq}, Python {machine.python}, {machine.system}")
    memory = f", {machine.memory_bytes / 1e9:.0f} GB of memory" if machine.memory_bytes else ""
    console.print(f"{machine.cpu or machine.architecture}, {machine.usable_cpus} CPUs{memory}")
    drawn = Table(box=None, pad_edge=False)
    for check in diagnosis.checks:
        style = _STYLES[check.state]
        remedy = f"\n{check.remedy}" if check.remedy else ""
        drawn.add_row(f"[{style}]{check.state}[/{style}]", check.name, check.found + remedy)
    console.print(drawn)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
