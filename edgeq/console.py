"""What the command line prints: tables for people, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from edgeq.verbs.report import HEADER, Row, provenance, table

if TYPE_CHECKING:
    from edgeq.verbs.doctor import Diagnosis

_PIPE_WIDTH = 200
_STYLES = {"ok": "green", "missing": "yellow", "warning": "yellow", "broken": "red"}


def print_report(rows: Sequence[Row]) -> None:
    """Prints the report's table without its empty columns, and below it how every figure was obtained."""
    cells = table(rows)
    shown = [i for i in range(len(HEADER)) if i < 2 or any(row[i] != "-" for row in cells)]
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for i in shown:
        drawn.add_column(HEADER[i], justify="left" if i < 2 else "right", overflow="fold")
    for row in cells:
        drawn.add_row(*(row[i] for i in shown))
    console = _console()
    console.print(drawn)
    for sentence in provenance(rows):
        console.print(sentence, style="dim", soft_wrap=True)


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
    # A pipe has no width; rich would fold tables at 80 columns.
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
