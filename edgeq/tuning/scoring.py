"""What all trials of one run share: images, engine, journal, the float file, and how predictions become points."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_bytes
from edgeq.progress import progress_bar
from edgeq.results.sensitivity import ScoreChange, Verdict
from edgeq.runtimes import choose_runtimes, open_session
from edgeq.tasks import Task
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tuning.candidate import AS_CALIBRATED, INT8, Candidate
from edgeq.tuning.executors import Executor
from edgeq.tuning.journal import Trial, TrialJournal, open_journal
from edgeq.tuning.paired import score_change
from edgeq.tuning.screening import Noise, Screening
from edgeq.tuning.staged import StagedImages, compute_precision, draw_stages
from edgeq.tuning.store import Store
from edgeq.tuning.trials import Subject


@dataclass(frozen=True)
class ScoringOptions:
    """How trials are scored.

    Attributes:
        images: The most images to score on; by default all.
        runtime: The runtime to score in; by default the first of the target that is installed.
        seed: Draws the order of the images.
        threads: CPU threads of the engine.
    """

    images: int | None = None
    runtime: str | None = None
    seed: int = 0
    threads: int | None = None


_Options = TypeVar("_Options", bound=ScoringOptions)


def for_executor(options: _Options, executor: Executor | None) -> _Options:
    """Returns options with one thread per engine where workers predict and no number is given."""
    return options if executor is None or options.threads else dataclasses.replace(options, threads=1)


@dataclass(frozen=True, eq=False)
class Scoring:
    """The trials of one run.

    Attributes:
        subject: What they are made from.
        task: The images to score on, with their truth.
        inputs: Inputs `(1, C, H, W)` for the screening.
        options: How they are scored.
        store: Where they are kept.
        folder: Where their files are written.
        executor: Who predicts images; by default this process. The result is the same.
        precision: The precision of the file that has all groups quantized.
    """

    subject: Subject
    task: Task[Any]
    inputs: Sequence[np.ndarray]
    options: ScoringOptions
    store: Store
    folder: Path
    executor: Executor | None = None
    precision: str = INT8

    @cached_property
    def float_file(self) -> Artifact:
        """The float file."""
        return self.subject.write(Candidate(), self.folder / "float")

    @cached_property
    def whole(self) -> Candidate:
        """All groups quantized."""
        return self.subject.of_groups(self.subject.groups, AS_CALIBRATED, self.precision)

    @cached_property
    def whole_file(self) -> Artifact:
        """The file with all groups quantized."""
        return self.subject.write(self.whole, self.folder / "whole")

    @cached_property
    def runtime(self) -> str:
        """Name of the runtime that trials are scored in."""
        wished = () if self.options.runtime is None else (self.options.runtime,)
        return choose_runtimes(self.whole_file, wished)[0]

    @cached_property
    def session_facts(self) -> dict[str, Any]:
        """What a session of it says about itself."""
        compute = compute_precision(self.runtime)
        with open_session(self.whole_file, self.runtime, self.options.threads, compute) as session:
            return session.environment()

    @cached_property
    def images(self) -> StagedImages:
        """The images, in stages."""
        stages = draw_stages(len(self.task.items), self.options.images, self.options.seed)
        return StagedImages(self.task, stages, self.runtime, self.options.threads, self.executor)

    @cached_property
    def screening(self) -> Screening:
        """The outputs that the noise of trials is measured against."""
        return Screening(self.subject.model, self.inputs, self.options.threads)

    @cached_property
    def journal(self) -> TrialJournal:
        """What trials found so far."""
        subject = self.subject
        screened = [sha256_bytes(array.tobytes()) for array in self.inputs]
        return open_journal(
            self.store, subject.model, self.task, self.runtime, self.session_facts, subject.target.name, screened
        )

    def trial(self, candidate: Candidate) -> Trial:
        """Returns a candidate as the store knows it."""
        return Trial(self.subject.plan_digest(candidate), self.subject.title(candidate))

    # Predictions ----------------------------------------------------------------------------------------------------

    @cached_property
    def float_predictions(self) -> dict[int, Any]:
        """What the float file says about all images that can be read; raises `InputError` if those are too few."""
        found = self.predict_all(Candidate(), self.float_file)
        self.images.require_readable(found)
        return found

    @cached_property
    def whole_predictions(self) -> dict[int, Any]:
        """What the file with all groups quantized says about all images."""
        return self.predict_all(self.whole, self.whole_file)

    def predict_all(self, candidate: Candidate, artifact: Artifact) -> dict[int, Any]:
        """Returns what a file says about all images."""
        trial, stages = self.trial(candidate), range(len(self.images.stages))
        found = {stage: self.known(trial, stage) for stage in stages}
        left = [stage for stage in stages if found[stage] is None]
        with progress_bar(len(stages), f"scoring {artifact.name}", unit="stages") as advance:
            advance(len(stages) - len(left))
            for index, predicted in self.images.predict_many([(artifact, stage) for stage in left]):
                self.journal.add_predictions(trial, predicted)
                found[left[index]] = predicted
                advance(1)
        return {number: each for stage in stages for number, each in (found[stage] or {}).items()}

    def known(self, trial: Trial, stage: int) -> dict[int, Any] | None:
        """Returns what the store knows that a trial says about the images of a stage; `None` if not about all."""
        kept = self.journal.predictions(trial, self.images.stages[stage])
        return None if self._wanted(stage) - kept.keys() else kept

    def _wanted(self, stage: int) -> set[int]:
        """Returns the images of a stage, once it is known which of them cannot be read, without those."""
        numbers = set(self.images.stages[stage])
        known: Mapping[int, Any] | None = self.__dict__.get("float_predictions")
        return numbers if known is None else numbers & known.keys()

    # Scores ---------------------------------------------------------------------------------------------------------

    def score(self, trial: Trial, predictions: Mapping[int, Any], *, is_reference: bool = False) -> float:
        """Returns the score of predictions, which the store keeps.

        Args:
            trial: What made them.
            predictions: What it says about the images.
            is_reference: Whether they are those that others are compared with, and have to make sense.

        Raises:
            InputError: there is nothing to score, or the figures of a reference say nothing.
        """
        score = self.task.score(self.float_file, predictions, self.float_predictions)
        if score.main_value is None:
            raise InputError(f"{self.task.source}: the images hold nothing to score {score.main} on")
        for suspicion in self.task.suspicions(self.float_file, predictions, score) if is_reference else ():
            if suspicion.meaningless:
                raise InputError(f"{self.subject.model.name}: {suspicion.text}")
        self.journal.add_score(trial, score.main, score.main_value, len(predictions))
        return score.main_value

    def change(
        self, before: Mapping[int, Any], behind: Mapping[int, Any], matters: float
    ) -> tuple[ScoreChange, Verdict]:
        """Returns how many points predictions lose against others on the same images, and whether that matters."""
        return score_change(self.records(before), self.records(behind), self.task.score_type, matters)

    def records(self, predictions: Mapping[int, Any]) -> PredictionRecords:
        """Returns predictions with the truth."""
        needed = self.float_predictions if self.task.needs_reference else {}
        return self.task.per_image(self.float_file, predictions, {n: needed[n] for n in predictions if n in needed})

    # Noise ----------------------------------------------------------------------------------------------------------

    def noise(self, candidate: Candidate) -> Noise:
        """Returns the noise that a candidate leaves in the outputs."""
        trial = self.trial(candidate)
        found = self.journal.noise(trial)
        if found is None:
            with tempfile.TemporaryDirectory(dir=self.folder) as name:
                found = self.screening.noise(self.subject.write_graph(candidate, Path(name)))
            self.journal.add_noise(trial, found)
        return found
