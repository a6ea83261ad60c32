"""Scores the trials of a study: what the store has is not computed again, and workers change no result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.files import sha256_json
from edgeq.progress import progress_bar
from edgeq.results.sensitivity import ScoreChange, Verdict
from edgeq.studying.model import StudiedModel
from edgeq.studying.trials import StudyTrial
from edgeq.tasks import Task
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tuning.journal import Trial, TrialJournal
from edgeq.tuning.paired import change_of_draws
from edgeq.tuning.staged import require_readable
from edgeq.tuning.store import Store
from edgeq.tuning.trial_events import tell_trial_scored

Predictions = Mapping[int, Any]

_USEFUL_SHARE = 0.1
"""Share of FP32's score that a trial of use may lose by default."""


@dataclass(frozen=True)
class Outcome:
    """What a trial scores.

    Attributes:
        trial: The trial.
        plan: Digest of its plan.
        score: On all images.
        draws: Score over all images, and then over each draw of the bootstrap.
        first_half: Score on the first half of the images.
    """

    trial: StudyTrial
    plan: str
    score: float
    draws: NDArray[np.float64]
    first_half: float


@dataclass(frozen=True, eq=False)
class StudyRun:
    """The trials of one study on the images of a task.

    Attributes:
        model: What is studied, which predicts the images of trials.
        task: The images, with their truth.
        store: Where predictions are kept.
        max_drop: Points from which a loss matters.
        useful_drop: A trial that loses as many points is useless; by default a tenth of FP32's score.
        seed: Draws the halves.
    """

    model: StudiedModel
    task: Task[Any]
    store: Store
    max_drop: float = 0.5
    useful_drop: float | None = None
    seed: int = 0

    @cached_property
    def numbers(self) -> list[int]:
        """Positions of the images to score on."""
        return [number for piece in self.model.pieces for number in piece]

    @cached_property
    def journal(self) -> TrialJournal:
        """What trials have predicted so far."""
        return self.model.open_journal(self.store)

    def entry(self, trial: StudyTrial | None) -> Trial:
        """Returns a trial as the store knows it; `None` is FP32."""
        if trial is None:
            return Trial(sha256_json(["study", "float"]), "float")
        return Trial(sha256_json(["study", self.model.bank.digest, trial.identity]), trial.name)

    def known(self, trials: Sequence[StudyTrial]) -> int:
        """Returns of how many trials the store has a prediction for every image."""
        entries = [entry for entry in map(self.entry, trials) if self.journal.has(entry)]
        return sum(not self._left(self._kept(entry)) for entry in entries)

    @cached_property
    def float_predictions(self) -> Predictions:
        """What the float file says about all images that can be read.

        Raises:
            InputError: too few can be read, or they hold nothing to score.
        """
        entry = self.entry(None)
        found = self._kept(entry)
        for _, predicted in self.model.predict([(None, piece) for piece in self._left(found)]):
            self.journal.add_predictions(entry, predicted)
            found |= predicted
        require_readable(self.task, len(self.numbers), found)
        return dict(sorted(found.items()))

    @cached_property
    def float_outcome(self) -> Outcome:
        """What the float model scores.

        Raises:
            InputError: its figures say nothing.
        """
        predictions = self.float_predictions
        found = self._outcome(StudyTrial("FP32"), self.entry(None), predictions)
        score = self.task.score(self.model.artifact, predictions, predictions)
        for suspicion in self.task.suspicions(self.model.artifact, predictions, score):
            if suspicion.meaningless:
                raise InputError(f"{self.model.name}: {suspicion.text}")
        return found

    @property
    def limit(self) -> float:
        """Points from which a trial is of no use, at least those from which a loss matters."""
        asked = self.useful_drop
        return max(self.max_drop, 100 * _USEFUL_SHARE * abs(self.float_outcome.score) if asked is None else asked)

    @cached_property
    def chance_outcome(self) -> Outcome | None:
        """What one answer to all images scores, the one that scores best; `None` if the task has none."""
        answer = self.task.one_answer(self.model.artifact, sorted(self.float_predictions))
        if answer is None:
            return None
        return self._outcome(StudyTrial("one answer"), Trial("", "one answer"), dict(answer))

    @cached_property
    def halves(self) -> tuple[frozenset[int], frozenset[int]]:
        """Positions of the images of both halves, which the seed draws."""
        known = sorted(self.float_predictions)
        drawn = np.random.default_rng(self.seed).permutation(known).tolist()
        return frozenset(drawn[::2]), frozenset(drawn[1::2])

    def outcomes(self, trials: Sequence[StudyTrial]) -> list[Outcome]:
        """Returns what trials score, in their order.

        Raises:
            InputError: see `float_predictions`, or a file cannot be written.
            EngineError: a file cannot be run.
        """
        reference = self.float_outcome
        found: dict[int, Outcome] = {}
        with progress_bar(len(trials), "scoring trials", unit="trials") as advance:
            for number, predictions in self._predicted(trials):
                found[number] = self._outcome(trials[number], self.entry(trials[number]), predictions)
                change, verdict = self._judged(reference, found[number])
                tell_trial_scored(found[number].plan, trials[number].name, 0, change, verdict)
                advance(1)
        return [found[number] for number in range(len(trials))]

    def change(self, before: Outcome, behind: Outcome) -> ScoreChange:
        """Returns how many points an outcome loses against another one, on the same images."""
        return self._judged(before, behind)[0]

    def half_draws(self, trial: StudyTrial | None, half: int) -> NDArray[np.float64]:
        """Returns the score of a trial on the first (0) or second (1) half of the images, and over its draws."""
        kept = self.float_predictions if trial is None else self._kept(self.entry(trial))
        records = self._records({number: kept[number] for number in sorted(self.halves[half])})
        return records.resampled(self.task.score_type.main)

    def _predicted(self, trials: Sequence[StudyTrial]) -> Iterator[tuple[int, Predictions]]:
        """Yields (number of a trial, what it says about all images), first those that the store knows."""
        readable = self.float_predictions.keys()
        found: dict[int, dict[int, Any]] = {}
        left: dict[int, set[int]] = {}
        for number, trial in enumerate(trials):
            kept = _some(self._kept(self.entry(trial)), readable)
            pieces = self._left(kept)
            if pieces:
                found[number], left[number] = kept, set(pieces)
            else:
                yield number, kept
        work = [(number, piece) for number, pieces in left.items() for piece in sorted(pieces)]
        for index, predicted in self.model.predict([(trials[number], piece) for number, piece in work]):
            number, piece = work[index]
            self.journal.add_predictions(self.entry(trials[number]), predicted)
            found[number] |= predicted
            left[number].discard(piece)
            if not left[number]:
                yield number, dict(sorted(found.pop(number).items()))

    def _left(self, kept: Predictions) -> list[int]:
        """Returns the pieces of the images that not all predictions are kept of."""
        missing = set(self.numbers) - kept.keys()
        if "float_predictions" in self.__dict__:
            missing &= self.float_predictions.keys()
        return [piece for piece, numbers in enumerate(self.model.pieces) if missing & set(numbers)]

    def _kept(self, entry: Trial) -> dict[int, Any]:
        return self.journal.predictions(entry, self.numbers)

    def _judged(self, before: Outcome, behind: Outcome) -> tuple[ScoreChange, Verdict]:
        images = len(self.float_predictions)
        return change_of_draws(before.draws, behind.draws, images, self.task.score_type, self.max_drop)

    def _outcome(self, trial: StudyTrial, entry: Trial, predictions: Predictions) -> Outcome:
        score, half = self._score(predictions), self._score(_some(predictions, self.halves[0]))
        draws = self._records(predictions).resampled(self.task.score_type.main)
        return Outcome(trial, entry.plan, score, draws, half)

    def _score(self, predictions: Predictions) -> float:
        score = self.task.score(self.model.artifact, predictions, self._reference(predictions))
        if score.main_value is None:
            raise InputError(f"{self.task.source}: the images hold nothing to score {score.main} on; give more images")
        return score.main_value

    def _records(self, predictions: Predictions) -> PredictionRecords:
        return self.task.per_image(self.model.artifact, predictions, self._reference(predictions))

    def _reference(self, predictions: Predictions) -> Predictions:
        return _some(self.float_predictions, predictions.keys()) if self.task.needs_reference else {}


def _some(predictions: Predictions, numbers: Any) -> dict[int, Any]:
    return {number: each for number, each in predictions.items() if number in numbers}
