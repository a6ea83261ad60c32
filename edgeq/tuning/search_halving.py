"""Real scores by successive halving: all candidates on a few images, and the promising ones on ever more.

After each stage a candidate is dropped if

1. it certainly (99 %) loses more than the budget allows;
2. another one that costs no more certainly loses less;
3. it is among the worse half of those that another one, which costs no more, betters by more than a standard error
   (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016).

What costs no more is neither slower nor larger, and takes no more memory or energy if the budget limits them. What is
pinned stays.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.events import StageFinished, TrialDropped, emit
from edgeq.exporting.artifact import Artifact
from edgeq.progress import progress_bar
from edgeq.results.sensitivity import ScoreChange, Verdict
from edgeq.tuning.candidate import Candidate
from edgeq.tuning.journal import Trial
from edgeq.tuning.machine_lock import BusyMachineError
from edgeq.tuning.paired import change_of_draws
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_latency import UNKNOWN, Usage
from edgeq.tuning.trial_events import tell_trial_scored

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Contender:
    """A candidate on its way through the stages.

    Attributes:
        name: What people call it.
        candidate: How it is computed.
        trial: The same as the store knows it.
        artifact: Its file.
        noise: Noise that it is expected to leave.
        ratio: Time over FP32's that it is expected to take.
        pinned: Whether it is never dropped.
        predictions: What it says about the images so far.
        draws: Its score on them, and over each draw of them.
        change: What it loses against FP32 on them; `None` before the first stage.
        verdict: What that says about the budget.
        dropped: Why it was dropped; empty as long as it was not.
        usage: The memory and the energy that it takes, if a budget limits them.
    """

    name: str
    candidate: Candidate
    trial: Trial
    artifact: Artifact
    noise: float
    ratio: float
    pinned: bool = False
    predictions: dict[int, Any] = field(default_factory=dict)
    draws: NDArray[np.float64] | None = None
    change: ScoreChange | None = None
    verdict: Verdict = "open"
    dropped: str = ""
    usage: Usage = UNKNOWN

    @property
    def points(self) -> float:
        """Points lost so far; infinite before the first stage."""
        return math.inf if self.change is None else self.change.points

    @property
    def standard_error(self) -> float:
        """Of these points, from their 95 % interval."""
        return 0.0 if self.change is None else (self.change.high - self.change.low) / 4

    def costs_no_more(self, other: Contender) -> bool:
        """Returns whether it takes no more of anything than another one, as far as that is known."""
        usage, others = self.usage, other.usage
        pairs = [
            (self.ratio, other.ratio),
            (self.artifact.size_bytes, other.artifact.size_bytes),
            (usage.memory_bytes, others.memory_bytes),
            (usage.j_over_fp32, others.j_over_fp32),
        ]
        return all(own <= wanted for own, wanted in pairs if own is not None and wanted is not None)


@dataclass(frozen=True)
class Deadline:
    """When a search has to end.

    Attributes:
        at_s: Time of `time.monotonic`; infinite without a limit.
    """

    at_s: float = math.inf

    @property
    def is_over(self) -> bool:
        """Whether that is past."""
        return time.monotonic() >= self.at_s


NEVER = Deadline()


def halve(scoring: Scoring, contenders: Sequence[Contender], max_drop: float | None, deadline: Deadline) -> bool:
    """Scores candidates stage by stage; returns whether all stages were done before the deadline.

    Args:
        scoring: Scores them.
        contenders: The candidates; what is found is entered in them.
        max_drop: Points that the budget allows to lose; `None` allows all.
        deadline: When to end.
    """
    stages = len(scoring.images.stages)
    with progress_bar(stages, "scoring candidates", unit="stages") as advance:
        for stage in range(stages):
            alive = [each for each in contenders if not each.dropped]
            done = _predict(scoring, alive, stage, deadline)
            _score(scoring, alive, stage, max_drop)
            if not done:
                return False
            if stage < stages - 1:
                _drop(scoring, alive, max_drop)
            _tell_stage(alive, stage + 1, stages)
            advance(1)
    return True


def _predict(scoring: Scoring, alive: Sequence[Contender], stage: int, deadline: Deadline) -> bool:
    """Has candidates predict the images of a stage; returns whether all have."""
    missing = []
    for each in alive:
        known = scoring.known(each.trial, stage)
        if known is None:
            missing.append(each)
        else:
            each.predictions |= known
    work = [(each.artifact, stage) for each in missing]
    if work and deadline.is_over:
        return False
    try:
        for finished, (index, found) in enumerate(scoring.images.predict_many(work), start=1):
            scoring.journal.add_predictions(missing[index].trial, found)
            missing[index].predictions |= found
            if deadline.is_over and finished < len(work):
                return False
    except BusyMachineError as error:
        _log.warning("%s", error)
        return False
    return True


def _score(scoring: Scoring, alive: Sequence[Contender], stage: int, max_drop: float | None) -> None:
    """Enters what candidates lose on the images so far; one that has not seen those of the stage keeps its figures."""
    wanted = {number for numbers in scoring.images.stages[: stage + 1] for number in numbers}
    reference = {number: each for number, each in scoring.float_predictions.items() if number in wanted}
    if not reference:
        return
    score = scoring.task.score_type
    before = scoring.records(reference).resampled(score.main)
    matters = math.inf if max_drop is None else max_drop
    for each in alive:
        if each.predictions.keys() >= reference.keys():
            found = {number: each.predictions[number] for number in reference}
            each.draws = scoring.records(found).resampled(score.main)
            each.change, each.verdict = change_of_draws(before, each.draws, len(reference), score, matters)
            tell_trial_scored(each.trial.plan, each.name, stage, each.change, each.verdict)


def _drop(scoring: Scoring, alive: Sequence[Contender], max_drop: float | None) -> None:
    """Drops candidates by the rules above."""
    for each in alive:
        if each.verdict == "matters" and not each.pinned:
            each.dropped = f"loses more than {max_drop:g} points for certain"
    for each in [each for each in alive if not (each.dropped or each.pinned)]:
        better = next((other for other in alive if not other.dropped and _certainly_better(scoring, other, each)), None)
        if better is not None:
            each.dropped = f"{better.name} is neither slower nor larger, and certainly loses less"
    left = [each for each in alive if not each.dropped]
    behind = [each for each in left if not each.pinned and any(_betters(other, each) for other in left)]
    behind.sort(key=lambda each: each.points)
    for each in behind[len(behind) // 2 :]:
        each.dropped = "another file loses less so far and is neither slower nor larger"


def _tell_stage(alive: Sequence[Contender], stage: int, stages: int) -> None:
    """Tells which of the candidates of a stage go on."""
    dropped = [each for each in alive if each.dropped]
    for each in dropped:
        emit(TrialDropped(trial=each.trial.plan, name=each.name, reason=each.dropped))
    images = max((each.change.images for each in alive if each.change is not None), default=0)
    left = len(alive) - len(dropped)
    emit(StageFinished(stage=stage, stages=stages, images=images, left=left, dropped=len(dropped)))


def _betters(one: Contender, other: Contender) -> bool:
    return one is not other and one.costs_no_more(other) and one.points < other.points - other.standard_error


def _certainly_better(scoring: Scoring, one: Contender, other: Contender) -> bool:
    """Returns whether a candidate is neither slower nor larger than another one, and certainly loses less."""
    if one is other or not one.costs_no_more(other) or one.draws is None or other.draws is None:
        return False
    if one.change is None or other.change is None or one.change.images != other.change.images:
        return False
    images, score = other.change.images, scoring.task.score_type
    return change_of_draws(one.draws, other.draws, images, score, 0.0)[1] == "matters"
