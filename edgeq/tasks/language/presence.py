"""Whether an object is in an image, yes or no: a probe for models that see what is not there.

("Evaluating Object Hallucination in Large Vision-Language Models", POPE, Li et al., 2023)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn, Suspicion
from edgeq.tasks.language.answers_task import AnswerRecords, AnswersTask
from edgeq.tasks.language.questions import Question

NAME = "object-presence"

_NO = frozenset({"no", "not"})
_WORD = re.compile(r"[a-z']+")
_ENOUGH = 20
_BLIND = 0.05


@dataclass(frozen=True, kw_only=True)
class PresenceScore(Score):
    """How a model says which objects are there; "yes" is what is looked for.

    Attributes:
        presence_accuracy: Share of right answers, 0..1.
        yes_precision: Share of the answers "yes" that are right, 0..1; `None` if there is none.
        yes_recall: Share of the objects that are found, 0..1; `None` if none is there.
        yes_f1: Harmonic mean of both.
        yes_ratio: Share of the answers that are "yes"; near 1 for a model that sees everything everywhere.
    """

    task = NAME
    main = "presence_accuracy"
    figures = "Accuracy and share of yes"
    columns = (
        ScoreColumn("presence_accuracy", "accuracy"),
        ScoreColumn("yes_precision", "precision"),
        ScoreColumn("yes_recall", "recall"),
        ScoreColumn("yes_f1", "F1"),
        ScoreColumn("yes_ratio", "yes ratio"),
    )
    presence_accuracy: float | None
    yes_precision: float | None = None
    yes_recall: float | None = None
    yes_f1: float | None = None
    yes_ratio: float | None = None


class PresenceRecords(AnswerRecords):
    """Whether each answer is right."""

    task = NAME


class PresenceTask(AnswersTask):
    """Accuracy, precision, recall and the share of yes."""

    name = NAME
    score_type = PresenceScore
    records_type = PresenceRecords

    def __init__(self, source: Path, questions: Sequence[Question], images_dir: Path) -> None:
        super().__init__(source, questions, images_dir)
        for each in questions:
            if each.answers[0].strip().lower() not in ("yes", "no"):
                raise InputError(f"{source}: {each.name!r} is answered {each.answers[0][:40]!r}; wanted yes or no")

    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns 1 for a right answer, and 0 for a wrong one."""
        said, true = self._yes(predictions)
        right: NDArray[np.float64] = (said == true).astype(np.float64)
        return right

    def score(self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]) -> PresenceScore:
        """Returns accuracy, precision, recall, F1 and the share of yes."""
        said, true = self._yes(predictions)
        right = int((said & true).sum())
        precision = right / int(said.sum()) if said.any() else None
        recall = right / int(true.sum()) if true.any() else None
        either = int(said.sum() + true.sum())
        return PresenceScore(
            presence_accuracy=float((said == true).mean()),
            yes_precision=precision,
            yes_recall=recall,
            yes_f1=2 * right / either if either else None,
            yes_ratio=float(said.mean()),
        )

    def suspicions(self, artifact: Artifact, predictions: Mapping[int, str], score: Score) -> Sequence[Suspicion]:
        """Returns that a model is blind, if it says yes or no to nearly everything although both are true."""
        said, true = self._yes(predictions)
        ratio, truly = float(said.mean()), float(true.mean())
        if len(said) < _ENOUGH or _BLIND < ratio < 1 - _BLIND or not _BLIND < truly < 1 - _BLIND:
            return ()
        word = "yes" if ratio > truly else "no"
        return (
            Suspicion(
                text=f"says {word} to {max(ratio, 1 - ratio):.0%} of the questions, and yes is right for {truly:.0%}: "
                "it may be fluent but blind, check the precision of its vision part and connector"
            ),
        )

    def _yes(self, predictions: Mapping[int, str]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Returns whether each answer is yes, and whether yes is true."""
        numbers = sorted(predictions)
        said = np.array([says_yes(predictions[number]) for number in numbers])
        return said, np.array([says_yes(self.questions[number].answers[0]) for number in numbers])


def says_yes(answer: str) -> bool:
    """Returns whether an answer means yes: its first sentence holds neither "no" nor "not", as POPE reads it."""
    words = _WORD.findall(answer.lower().partition(".")[0])
    return not _NO.intersection(words)
