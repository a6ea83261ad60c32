"""The rows of the table that `python -m tests.gpu` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["passed", "FAILED", "skipped"]


@dataclass(frozen=True)
class Row:
    """What one step found of one subject.

    Attributes:
        step: Name of the step.
        subject: What was tested.
        state: Whether it holds, or was not tried.
        found: Figures, or the reason.
    """

    step: str
    subject: str
    state: State
    found: str

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return dataclasses.asdict(self)


def judged(step: str, subject: str, holds: bool, found: str) -> Row:
    """Returns the row of something that was tried."""
    return Row(step, subject, "passed" if holds else "FAILED", found)


def lines(rows: Sequence[Row], seconds: dict[str, float]) -> Iterable[str]:
    """Yields the table in Markdown; the time of a step stands in its first row."""
    yield "| step | subject | | found | s |"
    yield "|---|---|---|---|---:|"
    told: set[str] = set()
    for row in rows:
        took = f"{seconds[row.step]:.0f}" if row.step in seconds and row.step not in told else ""
        told.add(row.step)
        yield f"| {row.step} | {row.subject} | {row.state} | {row.found.replace('|', '/')} | {took} |"
