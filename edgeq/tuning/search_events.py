"""What a search tells other programs of its files (`edgeq.events`); their scores are told where they are scored."""

from __future__ import annotations

from edgeq.events import SearchStarted, TrialFinished, TrialStarted, TrialTimed, emit
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_choice import SearchOptions, Tried
from edgeq.tuning.search_halving import Contender
from edgeq.tuning.search_latency import Measured


def tell_search_started(scoring: Scoring, options: SearchOptions, float_score: float) -> None:
    """Tells that the float file was scored, and candidates follow."""
    subject = scoring.subject
    emit(
        SearchStarted(
            model=subject.model.name,
            target=subject.target.name,
            runtime=scoring.runtime,
            task=scoring.task.name,
            score=scoring.task.score_type.main,
            float_score=float_score,
            images=len(scoring.float_predictions),
            by=subject.by,
            groups=len(subject.groups),
            budget=str(options.budget),
        )
    )


def tell_trial_started(contender: Contender, layers: int) -> None:
    """Tells of a file that was written; `layers` of it are not in float."""
    emit(
        TrialStarted(
            trial=contender.trial.plan,
            name=contender.name,
            recipe=str(contender.candidate.recipe) if layers else "",
            int8_layers=layers,
            size_bytes=contender.artifact.size_bytes,
            expected_ratio=contender.ratio,
        )
    )


def tell_trial_timed(contender: Contender, found: Measured | None) -> None:
    """Tells what a file takes, if that was measured."""
    if found is not None:
        latency = found.latency
        emit(
            TrialTimed(
                trial=contender.trial.plan,
                name=contender.name,
                ratio=latency.ratio,
                low=latency.low,
                high=latency.high,
                p50_ms=latency.p50_ms,
            )
        )


def tell_trial_finished(tried: Tried) -> None:
    """Tells all that is known of a file."""
    contender, latency = tried.contender, tried.latency
    change = contender.change if tried.score is not None else None
    emit(
        TrialFinished(
            trial=contender.trial.plan,
            name=contender.name,
            score=tried.score,
            points=None if change is None else change.points,
            low=None if change is None else change.low,
            high=None if change is None else change.high,
            images=0 if change is None else change.images,
            ratio=latency.ratio,
            p50_ms=latency.p50_ms,
            obtained=latency.obtained,
            size_bytes=contender.artifact.size_bytes,
            dropped=contender.dropped,
        )
    )
