"""Adaptive sampling: more trials where the front is in doubt.

Rules, by number:

1. A third of the trials, at least 8, is drawn from the whole space.
2. Two neighbours on the useful front are in doubt if the interval of what the larger one gains over the smaller one
   includes 0. If none is in doubt, all neighbours count.
3. Around such a pair lie trials that differ from one of both by one value of one axis (by one step, or any value of an
   axis of few), and those that take each axis from either one. Each round tries some of them, as many of each pair, in
   an order that the seed draws.
4. If too few are left untried, the rest of a round is drawn from the whole space.

What is tried next depends on scores alone, and not on time or on who predicts. So an interrupted study makes the same
choices again from what the store has.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgeq.studying.answers import points_of
from edgeq.studying.run import Outcome, StudyRun
from edgeq.studying.trials import Grid, Planned, StudyTrial

_ROUNDS = 4
"""Rounds after the first one, about."""

_LEAST_ROUND = 4
_FEW_VALUES = 4
"""An axis of so many values has no order that steps could follow."""

_MIXTURES = 8
_ATTEMPTS = 64
"""Draws per trial that is looked for in the whole space."""

Choice = tuple[int, ...]


def explore(run: StudyRun, planned: Planned) -> tuple[Planned, list[Outcome]]:
    """Returns all trials of a study with what they score, those that are chosen by the scores of others too.

    Args:
        run: The study.
        planned: Its trials; if it is adaptive, the first of them.

    Raises:
        InputError: weights or a file cannot be written, or the images hold nothing to score.
        EngineError: a file cannot be run.
    """
    outcomes = _scored(run, planned.trials)
    while more := _next_round(run, planned, outcomes):
        trials = [trial for trial, _ in more]
        outcomes += _scored(run, trials)
        choices = {**planned.choices, **{trial.identity: choice for trial, choice in more}}
        planned = dataclasses.replace(planned, trials=(*planned.trials, *trials), choices=choices)
    return planned, outcomes


def _scored(run: StudyRun, trials: Sequence[StudyTrial]) -> list[Outcome]:
    run.model.bank.fill(run.model.bank.wanted(trials))
    return run.outcomes(trials)


def _next_round(run: StudyRun, planned: Planned, outcomes: Sequence[Outcome]) -> list[tuple[StudyTrial, Choice]]:
    """Returns the trials of the next round with the places that they have in the grid; nothing at the end."""
    grid, left = planned.grid, planned.asked - len(planned.choices)
    if grid is None or left <= 0:
        return []
    size = min(left, max(_LEAST_ROUND, math.ceil(planned.asked / (_ROUNDS + 2))))
    rng = np.random.default_rng([planned.seed, len(planned.choices)])
    tried = {trial.identity for trial in planned.trials}
    found: list[tuple[StudyTrial, Choice]] = []
    around = [_around(pair, grid, rng) for pair in _in_doubt(run, planned, outcomes)]
    turns = (each for turn in itertools.zip_longest(*around) for each in turn if each is not None)
    everywhere = _drawn(grid, size * _ATTEMPTS, rng)
    for choice in itertools.chain(turns, everywhere):
        trial = grid.trial(choice)
        if trial is not None and trial.identity not in tried:
            tried.add(trial.identity)
            found.append((trial, choice))
            if len(found) == size:
                break
    return found


def _in_doubt(run: StudyRun, planned: Planned, outcomes: Sequence[Outcome]) -> list[list[Choice]]:
    """Returns the places of neighbours on the useful front, fewest bits first (rule 2); of one point alone its own."""
    layers = run.model.layers
    points = points_of(run, outcomes, layers, 0)
    front = sorted(
        (number for number, each in enumerate(points) if each.on_front and not each.useless),
        key=lambda number: points[number].bits_per_weight,
    )
    pairs: list[tuple[int, ...]] = [*itertools.pairwise(front)] or [tuple(front)]
    gains = {number: points[number].gain for number in front}
    doubtful = [pair for pair in pairs if (gain := gains.get(pair[-1])) is not None and gain.low <= 0]
    identities = [[outcomes[number].trial.identity for number in pair] for pair in doubtful or pairs]
    places = [[planned.choices[each] for each in pair if each in planned.choices] for pair in identities]
    return [each for each in places if each]


def _around(places: Sequence[Choice], grid: Grid, rng: np.random.Generator) -> list[Choice]:
    """Returns the places around one or two of a grid (rule 3), in an order that is drawn."""
    near = [each for place in places for each in _one_step(place, grid.lengths)]
    both = np.array(places)
    for _ in range(_MIXTURES if len(places) > 1 else 0):
        taken = rng.integers(len(places), size=both.shape[1])
        near.append(tuple(int(each) for each in both[taken, np.arange(both.shape[1])]))
    unique = list(dict.fromkeys(near))
    return [unique[index] for index in rng.permutation(len(unique))]


def _one_step(place: Choice, lengths: Sequence[int]) -> Iterator[Choice]:
    """Yields the places that differ in one axis."""
    for axis, length in enumerate(lengths):
        values = range(length) if length <= _FEW_VALUES else (place[axis] - 1, place[axis] + 1)
        for value in values:
            if 0 <= value < length and value != place[axis]:
                yield (*place[:axis], value, *place[axis + 1 :])


def _drawn(grid: Grid, count: int, rng: np.random.Generator) -> Iterator[Choice]:
    """Yields places of the whole grid."""
    for _ in range(count):
        yield tuple(int(rng.integers(length)) for length in grid.lengths)
