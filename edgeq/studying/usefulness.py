"""Which trials are of use, and why others are not: few bits alone put a trial on the front, whatever it scores.

A trial is of use if it loses no more than a limit, and is clearly better than the same answer to everything.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from edgeq.results.sensitivity import ScoreChange
from edgeq.results.study import StudyPoint
from edgeq.studying.run import Outcome, StudyRun


def why_useless(run: StudyRun, outcome: Outcome, change: ScoreChange) -> str:
    """Returns why a trial is of no use; empty if it is of use.

    Args:
        run: The study.
        outcome: What the trial scores.
        change: What it loses against FP32.
    """
    if change.points > run.limit:
        return f"loses {change.points:.2f} points, more than {run.limit:.2f}"
    chance = run.chance_outcome
    if chance is not None and run.change(outcome, chance).low <= 0:
        score = run.task.score_type.main
        return f"{score} {outcome.score:.4f} is not clearly better than one answer to everything ({chance.score:.4f})"
    return ""


def with_gains(run: StudyRun, outcomes: Sequence[Outcome], points: Sequence[StudyPoint]) -> tuple[StudyPoint, ...]:
    """Returns points, those of the useful front with what each gains over the next smaller one.

    Args:
        run: The study.
        outcomes: What its trials score.
        points: The same as results have them, in the same order.
    """
    front = sorted(
        (number for number, each in enumerate(points) if each.on_front and not each.useless),
        key=lambda number: points[number].bits_per_weight,
    )
    found = list(points)
    for smaller, larger in itertools.pairwise(front):
        gain = run.change(outcomes[larger], outcomes[smaller])
        found[larger] = dataclasses.replace(points[larger], gain=gain)
    return tuple(found)
