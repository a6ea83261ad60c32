"""What scored trials tell other programs (`edgeq.events`), of a search and of a sensitivity."""

from __future__ import annotations

from edgeq.events import TrialScored, emit
from edgeq.results.sensitivity import ScoreChange, Verdict


def tell_trial_scored(plan: str, name: str, stage: int, change: ScoreChange, verdict: Verdict) -> None:
    """Tells what a trial loses on the images of the stages so far.

    Args:
        plan: Digest of its plan.
        name: What people call it.
        stage: Index of the stage, from 0.
        change: What it loses.
        verdict: What that means.
    """
    emit(
        TrialScored(
            trial=plan,
            name=name,
            stage=stage + 1,
            images=change.images,
            points=change.points,
            low=change.low,
            high=change.high,
            verdict=verdict,
        )
    )
