"""The last word of a passage, of which a model offers several ("The LAMBADA dataset", Paperno et al., 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.language.answers_task import AnswerRecords, AnswersTask

NAME = "last-word"

_MANY = 5


@dataclass(frozen=True, kw_only=True)
class LastWordScore(Score):
    """How often the last word is found, 0..1.

    Attributes:
        first_word: Share of the passages whose last word is the first one that the model offers.
        five_words: Share of them whose last word is among its first five.
    """

    task = NAME
    main = "first_word"
    figures = "Accuracy of the last word"
    columns = (ScoreColumn("first_word", "top-1 word"), ScoreColumn("five_words", "top-5 words"))
    first_word: float | None
    five_words: float | None = None


class LastWordRecords(AnswerRecords):
    """Whether the first word is right."""

    task = NAME


class LastWordTask(AnswersTask):
    """Whether the last word is the first, or among the first five that the model offers, one per line."""

    name = NAME
    score_type = LastWordScore
    records_type = LastWordRecords
    asks_for = "next words"

    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns 1 where the first word is right, and 0 elsewhere."""
        return self._found(predictions, 1)

    def score(self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]) -> LastWordScore:
        """Returns how often the last word is the first, and among the first five."""
        shares = (float(self._found(predictions, count).mean()) for count in (1, _MANY))
        return LastWordScore(first_word=next(shares), five_words=next(shares))

    def _found(self, predictions: Mapping[int, str], count: int) -> NDArray[np.float64]:
        return np.array(
            [
                float(_word(self.questions[number].answers[0]) in map(_word, predictions[number].splitlines()[:count]))
                for number in sorted(predictions)
            ]
        )


def _word(text: str) -> str:
    return text.strip().strip(".,;:!?\"'").lower()
