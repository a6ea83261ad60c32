"""Kinds of error of a file, and how they changed from FP32."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgeq.results.serialization import OMIT_EMPTY
from edgeq.tasks.evidence import Diagnosis


@dataclass(frozen=True)
class ErrorChange:
    """The errors of one kind.

    Attributes:
        kind: What they are called.
        count: How many there are.
        points: By how much the score would rise without them, in points.
        count_change: How many more there are than in FP32; `None` without it.
        points_change: How many more points they cost than in FP32; `None` without it.
    """

    kind: str
    count: int
    points: float
    count_change: int | None = field(default=None, metadata=OMIT_EMPTY)
    points_change: float | None = field(default=None, metadata=OMIT_EMPTY)


def error_changes(diagnosis: Diagnosis, reference: Diagnosis | None) -> tuple[ErrorChange, ...]:
    """Returns the errors of each kind.

    Args:
        diagnosis: What is wrong with a file.
        reference: What is wrong with FP32; `None` for FP32 itself, and where it was not scored on the same images.
    """
    before = {} if reference is None else {error.kind: error for error in reference.errors}
    return tuple(
        ErrorChange(
            error.kind,
            error.count,
            100 * error.cost,
            error.count - before[error.kind].count if before else None,
            100 * (error.cost - before[error.kind].cost) if before else None,
        )
        for error in diagnosis.errors
    )
