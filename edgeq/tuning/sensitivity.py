"""How sensitive each layer is to quantization, in the score of the task itself.

Each group of layers is tried alone in INT8 (or W4A8), all others in float, and alone in float, all others so:

1. The float file and the file with all layers quantized are scored on all images: that bounds what there is to lose.
2. Every trial is screened: the noise that it leaves in the outputs for a few images, in exact arithmetic.
3. A trial is scored only if it could matter: a group that alone keeps `SAFE_DB` needs no scoring, and neither does one
   whose share of the whole file's noise, `MARGIN` times over, is a share of the whole loss that does not matter.
4. It is scored on ever more images, until the 99 % interval of the change lies above or below what matters.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import edgeq
from edgeq.errors import EngineError
from edgeq.evaluation.evaluate import obtained_by
from edgeq.exporting.artifact import Artifact
from edgeq.progress import progress_bar
from edgeq.results.environment import parse_environment
from edgeq.results.sensitivity import Choice, GroupSensitivity, Precision, ScoreChange, SensitivityResult, Verdict
from edgeq.tasks import Task
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tuning.candidate import AS_CALIBRATED, Candidate
from edgeq.tuning.executors import Executor
from edgeq.tuning.groups import LayerGroup
from edgeq.tuning.journal import Trial
from edgeq.tuning.paired import score_change
from edgeq.tuning.scoring import Scoring, ScoringOptions
from edgeq.tuning.screening import Noise
from edgeq.tuning.store import Store
from edgeq.tuning.trial_events import tell_trial_scored
from edgeq.tuning.trials import Subject

SAFE_DB = 50.0
"""A group that alone quantized keeps this much of the outputs is not scored."""

MARGIN = 2.0
"""How far a group's part of the loss may be from its part of the noise."""

_HARMLESS: Verdict = "harmless"


@dataclass(frozen=True)
class SensitivityOptions(ScoringOptions):
    """How sensitivity is measured.

    Attributes:
        matters: Points of the score that matter.
        thorough: Whether every trial is scored on every image, whatever it is worth.
        precision: What groups are tried in; in `w4a8`, layers whose weights cannot have 4 bits are in INT8.
    """

    matters: float = 0.5
    thorough: bool = False
    precision: Precision = "int8"


def measure_sensitivity(
    subject: Subject,
    task: Task[Any],
    inputs: Sequence[np.ndarray],
    options: SensitivityOptions,
    store: Store,
    executor: Executor | None = None,
) -> SensitivityResult:
    """Returns what each group of layers costs the score; what the store holds is not computed again.

    Args:
        subject: The model, its target and its ranges.
        task: The images to score on, with their truth.
        inputs: Inputs `(1, C, H, W)` for the screening.
        options: How it is measured.
        store: Where trials are kept: with the same one a run that was cut resumes.
        executor: Who predicts images; by default this process. The result is the same.

    Raises:
        InputError: the target runs no layer so, there is nothing to score, the figures of the float model say
            nothing, or more images than the task allows cannot be read.
        EdgeqError: a file cannot be written or run.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        scoring = Scoring(subject, task, inputs, options, store, Path(folder), executor, options.precision)
        return _Run(scoring, options).result()


@dataclass(frozen=True)
class _Choosing:
    """A file that computes one group otherwise than all others.

    Attributes:
        quantized: The groups that it has quantized.
        is_alone: Whether that is the one group, to be compared with the float file; or else all others, to be compared
            with the file that has all quantized.
    """

    quantized: Collection[LayerGroup]
    is_alone: bool


@dataclass(eq=False)
class _Scored:
    """What is known of a trial that is scored.

    Attributes:
        trial: The trial.
        is_alone: See `_Choosing`.
        file: Writes its file, or returns it.
        found: Position of an image -> what it says about it.
        change: What is lost on these images.
        verdict: What that means.
    """

    trial: Trial
    is_alone: bool
    file: Callable[[], Artifact]
    found: dict[int, Any] = field(default_factory=dict)
    change: ScoreChange | None = None
    verdict: Verdict = "open"


class _StageOfFiles(Sequence[tuple[Artifact, int]]):
    """A stage of several trials as work; each file is written when its turn comes."""

    def __init__(self, trials: Sequence[_Scored], stage: int) -> None:
        self._trials = trials
        self._stage = stage

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, index: Any) -> Any:
        return self._trials[index].file(), self._stage


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of `measure_sensitivity`."""

    scoring: Scoring
    options: SensitivityOptions

    @property
    def subject(self) -> Subject:
        return self.scoring.subject

    def result(self) -> SensitivityResult:
        scoring = self.scoring
        scoring.task.check(scoring.float_file)
        loss, scores = self._whole()
        choices = self._choices(loss)
        groups = tuple(
            GroupSensitivity(name=group.name, layers=group.layers, quantized_alone=alone, float_alone=in_float)
            for group, alone, in_float in zip(self.subject.groups, *choices, strict=True)
        )
        images = len(scoring.float_predictions)
        scored = [each.change.images for side in choices for each in side if each.change is not None]
        return SensitivityResult(
            model=self.subject.model.name,
            source_digest=self.subject.model.digest,
            ranges_digest=self.subject.ranges.digest,
            target=self.subject.target.name,
            runtime=scoring.runtime,
            task=scoring.task.name,
            score=scoring.task.score_type.main,
            by=self.subject.by,
            precision=self.options.precision,
            matters=self.options.matters,
            float_score=scores[0],
            quantized_score=scores[1],
            loss=loss,
            groups=groups,
            images=images,
            images_scored=sum(scored) + 2 * images,
            images_of_all=2 * (len(groups) + 1) * images,
            screened_images=len(scoring.inputs),
            seed=self.options.seed,
            obtained=obtained_by(scoring.runtime, scoring.session_facts),
            environment=parse_environment(scoring.session_facts, source=scoring.whole_file.name, error=EngineError),
            edgeq=edgeq.__version__,
        )

    # Steps ----------------------------------------------------------------------------------------------------------

    def _whole(self) -> tuple[ScoreChange, tuple[float, float]]:
        """Returns what the whole file loses, and the scores of the float file and of it (step 1)."""
        scoring = self.scoring
        before = scoring.score(scoring.trial(Candidate()), scoring.float_predictions, is_reference=True)
        behind = scoring.score(scoring.trial(scoring.whole), scoring.whole_predictions)
        change, _ = scoring.change(scoring.float_predictions, scoring.whole_predictions, self.options.matters)
        return change, (before, behind)

    def _choices(self, loss: ScoreChange) -> tuple[list[Choice], list[Choice]]:
        """Returns of each group what it is alone quantized, and alone in float (steps 2 to 4)."""
        groups = self.subject.groups
        with progress_bar(2 * len(groups) + 1, "screening", unit="trials") as advance:
            whole = self._noise(groups, advance)
            alone = [self._noise((group,), advance) for group in groups]
            others = [self._noise(self._others(group), advance) for group in groups]
        tried: list[tuple[_Choosing, Noise, float, bool]] = []
        for group, own, rest in zip(groups, alone, others, strict=True):
            safe = own.snr_db >= SAFE_DB
            worth = 0.0 if safe else MARGIN * max(loss.high, 0.0)
            for choosing, noise, share in (
                (_Choosing((group,), is_alone=True), own, own.share_of(whole)),
                (_Choosing(self._others(group), is_alone=False), rest, rest.missing_in(whole)),
            ):
                tried.append((choosing, noise, share, self.options.thorough or worth * share >= self.options.matters))
        scored = iter(self._scored([choosing for choosing, _, _, is_scored in tried if is_scored]))
        choices = []
        for _, noise, share, is_scored in tried:
            change, verdict = next(scored) if is_scored else (None, _HARMLESS)
            snr_db, rounded = round(noise.snr_db, 2), round(share, 6)
            choices.append(Choice(snr_db=snr_db, noise_share=rounded, change=change, verdict=verdict))
        return choices[::2], choices[1::2]

    def _others(self, group: LayerGroup) -> tuple[LayerGroup, ...]:
        return tuple(other for other in self.subject.groups if other is not group)

    def _candidate(self, quantized: Collection[LayerGroup]) -> Candidate:
        return self.subject.of_groups(quantized, AS_CALIBRATED, self.options.precision)

    def _noise(self, quantized: Collection[LayerGroup], advance: Any) -> Noise:
        found = self.scoring.noise(self._candidate(quantized))
        advance(1)
        return found

    def _scored(self, choosings: Sequence[_Choosing]) -> list[tuple[ScoreChange, Verdict]]:
        """Returns of each trial what is lost by the layers that it computes otherwise than all others (step 4)."""
        found: list[tuple[ScoreChange, Verdict]] = []
        with progress_bar(len(choosings), "scoring", unit="trials") as advance:
            while len(found) < len(choosings):
                together = choosings[len(found) : len(found) + self.scoring.images.side_by_side]
                found += self._scored_together(together)
                advance(len(together))
        return found

    def _scored_together(self, choosings: Sequence[_Choosing]) -> list[tuple[ScoreChange, Verdict]]:
        """Returns the same of some trials whose files are on the disk at the same time, stage by stage."""
        with tempfile.TemporaryDirectory(dir=self.scoring.folder) as name:
            trials = [self._tried(each, Path(name) / str(number)) for number, each in enumerate(choosings)]
            for stage in range(len(self.scoring.images.stages)):
                self._score_stage([each for each in trials if each.verdict == "open"], stage)
        return [(each.change, each.verdict) for each in trials if each.change is not None]

    def _tried(self, choosing: _Choosing, folder: Path) -> _Scored:
        candidate = self._candidate(choosing.quantized)
        file = functools.cache(functools.partial(self.subject.write, candidate, folder))
        return _Scored(self.scoring.trial(candidate), choosing.is_alone, file)

    def _score_stage(self, trials: Sequence[_Scored], stage: int) -> None:
        left = []
        for trial in trials:
            kept = self.scoring.known(trial.trial, stage)
            if kept is None:
                left.append(trial)
            else:
                self._take(trial, stage, kept)
        for index, predicted in self.scoring.images.predict_many(_StageOfFiles(left, stage)):
            self.scoring.journal.add_predictions(left[index].trial, predicted)
            self._take(left[index], stage, predicted)

    def _take(self, trial: _Scored, stage: int, predicted: Mapping[int, Any]) -> None:
        """Takes what a trial says about the images of a stage, and decides whether that suffices."""
        trial.found |= predicted
        is_last = stage == len(self.scoring.images.stages) - 1
        if trial.found and (is_last or not self.options.thorough):
            trial.change, trial.verdict = self._change(trial.found, is_alone=trial.is_alone)
            tell_trial_scored(trial.trial.plan, trial.trial.title, stage, trial.change, trial.verdict)

    def _change(self, found: Mapping[int, Any], *, is_alone: bool) -> tuple[ScoreChange, Verdict]:
        own, other = self.scoring.records(found), self._compared(frozenset(found), is_alone=is_alone)
        before, behind = (other, own) if is_alone else (own, other)
        return score_change(before, behind, self.scoring.task.score_type, self.options.matters)

    def _compared(self, numbers: frozenset[int], *, is_alone: bool) -> PredictionRecords:
        """Returns the records of what a trial is compared with; their draws are the same for all trials."""
        if (numbers, is_alone) not in self._known_records:
            compared = self.scoring.float_predictions if is_alone else self.scoring.whole_predictions
            some = {number: compared[number] for number in numbers}
            self._known_records[numbers, is_alone] = self.scoring.records(some)
        return self._known_records[numbers, is_alone]

    @cached_property
    def _known_records(self) -> dict[tuple[frozenset[int], bool], PredictionRecords]:
        return {}
