"""What the scores of trials say: points with intervals, the front, parts alone and in pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeq.results.study import StudyInteraction, StudyPoint
from edgeq.studying.layers import StudyLayer
from edgeq.studying.run import Outcome, StudyRun
from edgeq.studying.space import LEFT_ALONE
from edgeq.studying.trials import StudyTrial
from edgeq.studying.usefulness import why_useless, with_gains
from edgeq.tasks.resampling import interval

_MOST_SETS = 4096
"""Trials of one way of storing weights, beyond which single parts are not looked for: pairs of sets take minutes."""


def stored_bits(trial: StudyTrial, layers: Sequence[StudyLayer]) -> int:
    """Returns the bits of all weights of a study in a trial, with scales and zero points."""
    return sum(
        LEFT_ALONE * each.weights
        if each.name not in trial.weights
        else trial.weights[each.name].stored_bits(each.outputs, each.inputs)
        for each in layers
    )


def points_of(
    run: StudyRun, outcomes: Sequence[Outcome], layers: Sequence[StudyLayer], rest_bytes: int
) -> tuple[StudyPoint, ...]:
    """Returns the trials as results have them, those on the front and those of no use marked.

    Args:
        run: The study.
        outcomes: What its trials score.
        layers: Its layers.
        rest_bytes: Size of all constants that no trial changes.
    """
    weights = sum(each.weights for each in layers)
    bits = [stored_bits(each.trial, layers) for each in outcomes]
    changes = [run.change(run.float_outcome, each) for each in outcomes]
    front = pareto_front([(count, change.points) for count, change in zip(bits, changes, strict=True)])
    found = []
    for position, (outcome, count, change) in enumerate(zip(outcomes, bits, changes, strict=True)):
        trial = outcome.trial
        found.append(
            StudyPoint(
                name=trial.name,
                plan=outcome.plan,
                where=where(trial),
                bits=None if trial.variant is None else trial.variant.bits,
                method=trial.method,
                granularity=trial.granularity,
                calibration=trial.calibration,
                activation=trial.activation,
                cells={name: str(variant) for name, variant in trial.cells.items()},
                bits_per_weight=count / weights,
                size_bytes=rest_bytes + -(-count // 8),
                score=outcome.score,
                loss=change,
                on_front=position in front,
                useless=why_useless(run, outcome, change),
            )
        )
    return with_gains(run, outcomes, found)


def where(trial: StudyTrial) -> str:
    """Returns which cells a trial quantizes, in words."""
    return " & ".join(trial.cells)


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Returns the positions of the points that no other one betters: less or equal in both numbers, less in one.

    Of equal ones the first counts.
    """
    found, least = set(), float("inf")
    for position in sorted(range(len(points)), key=lambda each: (*points[each], each)):
        if points[position][1] < least:
            found.add(position)
            least = points[position][1]
    return found


def single_parts(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Returns how weights are stored -> the trials of single parts stored so.

    A part is single if its layers are not those of two other trials together.
    """
    found = {}
    for stored, by_layers in by_stored(outcomes).items():
        if len(by_layers) <= _MOST_SETS:
            unions = {a | b for a, b in itertools.combinations(by_layers, 2) if not a & b}
            found[stored] = [outcome for layers, outcome in by_layers.items() if layers not in unions]
    return found


def interactions(run: StudyRun, outcomes: Sequence[Outcome]) -> tuple[StudyInteraction, ...]:
    """Returns how far two single parts together lose other than what both lose alone, for all that were tried so."""
    singles, groups = single_parts(outcomes), by_stored(outcomes)
    return tuple(
        _interaction(run, stored, first, second, both)
        for stored, alone in singles.items()
        for first, second, both in _pairs(alone, groups[stored])
    )


def by_stored(outcomes: Sequence[Outcome]) -> dict[str, dict[frozenset[str], Outcome]]:
    """Returns how weights are stored -> the quantized layers -> the trial, of those with weights of one kind."""
    found: dict[str, dict[frozenset[str], Outcome]] = {}
    for outcome in outcomes:
        if outcome.trial.variant is not None:
            found.setdefault(outcome.trial.stored, {})[frozenset(outcome.trial.weights)] = outcome
    return found


def _pairs(
    alone: Sequence[Outcome], known: Mapping[frozenset[str], Outcome]
) -> Iterator[tuple[Outcome, Outcome, Outcome]]:
    for first, second in itertools.combinations(alone, 2):
        layers = frozenset(first.trial.weights), frozenset(second.trial.weights)
        both = known.get(layers[0] | layers[1])
        if both is not None and not layers[0] & layers[1]:
            yield first, second, both


def _interaction(run: StudyRun, stored: str, first: Outcome, second: Outcome, both: Outcome) -> StudyInteraction:
    sign = -100 if run.task.score_type.lower_is_better else 100
    fp32 = run.float_outcome.draws
    alone = sign * (fp32 - first.draws) + sign * (fp32 - second.draws)
    together = sign * (fp32 - both.draws)
    difference = together - alone
    low, high = interval(difference[1:])
    value = float(difference[0])
    return StudyInteraction(
        first=where(first.trial),
        second=where(second.trial),
        stored=stored,
        added=float(alone[0]),
        together=float(together[0]),
        difference=value,
        low=value if low is None or np.isnan(low) else low,
        high=value if high is None or np.isnan(high) else high,
    )
