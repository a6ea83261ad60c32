"""`edgeq score`: answers that another program let models give, scored on a file of questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import sha256_bytes, sha256_file
from edgeq.notes import log_of
from edgeq.results.evaluation import EvalResult, Score
from edgeq.tasks import TASKS, get_task
from edgeq.tasks.language.questions_task import Given, QuestionsTask
from edgeq.tasks.prediction_records import PredictionRecords, pack_predictions
from edgeq.tasks.resampling import interval

_log = log_of(__name__)

_FORMAT = "answers"


@dataclass(frozen=True)
class ScoredAnswers:
    """A file of answers with its score.

    Attributes:
        result: The score, as `edgeq report` and `edgeq gate` read it.
        low: Lower end of the 95 % interval of the main number, a bootstrap over the questions.
        high: Its upper end.
        difference: The main number minus that of the first file; `None` for the first one.
        difference_low: Lower end of the interval of the difference, both files being scored on the same draws.
        difference_high: Its upper end.
    """

    result: EvalResult[Score]
    low: float | None
    high: float | None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None


def score_answers(files: Sequence[Path], task: str, truth: Path, *, images: Path | None = None) -> list[ScoredAnswers]:
    """Returns the score of each file of answers; the first one is what the others are compared with.

    Args:
        files: What models said, as the task's `read` takes it.
        task: Name of a task of questions.
        truth: The questions with people's answers, see `edgeq.tasks.language.questions.load_questions`.
        images: Folder of the images that the questions are about; by default that of `truth`.

    Raises:
        InputError: there is no such task, or a file cannot be used.
        MismatchError: a file is about other questions.
    """
    if not files:
        raise InputError("no answers to score; name at least one file of answers")
    kind: Any = get_task(task)
    if not issubclass(kind, QuestionsTask):
        raise InputError(f"`task` {task!r} is not about questions; known: {', '.join(question_tasks())}")
    opened: QuestionsTask[Any] = kind.from_files(truth, images or truth.parent, "")
    scored: list[ScoredAnswers] = []
    first: PredictionRecords | None = None
    reference: dict[int, Any] = {}
    for path in files:
        given = opened.read(path)
        reference = reference or given.predictions
        result, records = _scored(opened, path, given, reference)
        values = records.resampled(result.score.main)
        low, high = interval(values[1:])
        if first is None:
            first = records
            scored.append(ScoredAnswers(result, low, high))
        else:
            differences = values - first.resampled(result.score.main)
            scored.append(ScoredAnswers(result, low, high, float(differences[0]), *interval(differences[1:])))
    return scored


def question_tasks() -> list[str]:
    """Returns the names of the tasks of questions."""
    return [name for name in TASKS if issubclass(get_task(name), QuestionsTask)]


def _scored(
    task: QuestionsTask[Any], path: Path, given: Given[Any], reference: dict[int, Any]
) -> tuple[EvalResult[Score], PredictionRecords]:
    artifact = Artifact(
        path=path,
        format=_FORMAT,
        precision=given.precision,
        target="",
        inputs=(),
        outputs=(),
        preprocessing=None,
        digest=sha256_file(path),
        source_digest=sha256_bytes(given.model.encode()) if given.model else "",
    )
    compared = reference if task.needs_reference else {}
    score = task.score(artifact, given.predictions, compared)
    records = task.per_image(artifact, given.predictions, compared)
    suspicions = tuple(task.suspicions(artifact, given.predictions, score))
    for suspicion in suspicions:
        _log.warning("%s: %s", artifact.name, suspicion.text)
    result = EvalResult[Score](
        artifact=artifact.name,
        digest=artifact.digest,
        source_digest=artifact.source_digest,
        runtime=given.runtime or _FORMAT,
        precision=given.precision,
        task=task.name,
        images=len(given.predictions),
        score=score,
        suspicions=suspicions,
        annotations=task.source.name,
        predictions=pack_predictions(records),
    )
    return result, records
