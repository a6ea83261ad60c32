"""Questions about images, answered by ten people each ("VQA: Visual Question Answering", Antol et al., 2015)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.language.answers_task import AnswerRecords, AnswersTask

NAME = "vqa"

_ENOUGH_PEOPLE = 3
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
# A comma or a point between digits belongs to a number.
_PUNCTUATION = re.compile(r"(?<!\d)[.,]|[.,](?!\d)|[;/\[\]\"{}()=+\\_\-><@`?!:]")


@dataclass(frozen=True, kw_only=True)
class VqaScore(Score):
    """How far a model answers as people do.

    Attributes:
        vqa_accuracy: Mean accuracy, 0..1: an answer that three others of the people gave counts in full, one that two
            gave two thirds, averaged over each of the people left out.
        agreeing: Share of the answers that at least one person gave, 0..1.
    """

    task = NAME
    main = "vqa_accuracy"
    figures = "VQA accuracy"
    columns = (ScoreColumn("vqa_accuracy", "VQA accuracy"), ScoreColumn("agreeing", "agreeing"))
    vqa_accuracy: float | None
    agreeing: float | None = None


class VqaRecords(AnswerRecords):
    """The accuracy of each answer."""

    task = NAME


class VqaTask(AnswersTask):
    """The soft accuracy of answers."""

    name = NAME
    score_type = VqaScore
    records_type = VqaRecords

    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns the accuracy of each answer, 0..1."""
        return np.array(
            [soft_accuracy(predictions[each], self.questions[each].answers) for each in sorted(predictions)]
        )

    def score(self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]) -> VqaScore:
        """Returns the mean accuracy, and how many answers somebody gave."""
        values = self.values(predictions)
        return VqaScore(vqa_accuracy=float(values.mean()), agreeing=float((values > 0).mean()))


def soft_accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns the accuracy of an answer, 0..1: the mean over the people of min(1, others who gave it / 3).

    Args:
        answer: The answer.
        people: What people answered. A single one is the right answer.
    """
    given = [normalised(each) == normalised(answer) for each in people]
    if len(given) == 1:
        return float(given[0])
    return float(np.mean([min(1.0, (sum(given) - own) / _ENOUGH_PEOPLE) for own in given]))


def normalised(text: str) -> str:
    """Returns an answer in lower case, without articles and punctuation, with numbers up to ten in digits."""
    words = _PUNCTUATION.sub(" ", text.lower()).split()
    return " ".join(_WORDS.get(word, word) for word in words if word not in _ARTICLES)
