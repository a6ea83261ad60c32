"""Captions of images, compared with those of several people, by CIDEr and BLEU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.language.answers_task import AnswerRecords, AnswersTask
from edgeq.tasks.language.ngrams import bleu, cider, words_of
from edgeq.tasks.language.questions import Question

NAME = "captioning"


@dataclass(frozen=True, kw_only=True)
class CaptioningScore(Score):
    """How near captions are to those of people.

    Attributes:
        cider: CIDEr-D: likeness of rare n-grams, 0..10; studies multiply it by 100.
        bleu_1: BLEU of words over all images, 0..1.
        bleu_2: BLEU of words and pairs.
        bleu_3: BLEU up to triples.
        bleu_4: BLEU up to four words.
    """

    task = NAME
    main = "cider"
    figures = "CIDEr and BLEU"
    columns = (
        ScoreColumn("cider", "CIDEr"),
        ScoreColumn("bleu_1", "BLEU-1", in_report=False),
        ScoreColumn("bleu_2", "BLEU-2", in_report=False),
        ScoreColumn("bleu_3", "BLEU-3", in_report=False),
        ScoreColumn("bleu_4", "BLEU-4"),
    )
    cider: float | None
    bleu_1: float | None = None
    bleu_2: float | None = None
    bleu_3: float | None = None
    bleu_4: float | None = None


class CaptioningRecords(AnswerRecords):
    """The CIDEr-D of each caption."""

    task = NAME


class CaptioningTask(AnswersTask):
    """CIDEr-D and BLEU; rare n-grams are those that few images of the file of captions have."""

    name = NAME
    score_type = CaptioningScore
    records_type = CaptioningRecords

    def __init__(self, source: Path, questions: Sequence[Question], images_dir: Path) -> None:
        super().__init__(source, questions, images_dir)
        self._people = [[words_of(each) for each in question.answers] for question in questions]

    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns the CIDEr-D of each caption, 0..10."""
        return cider({number: words_of(text) for number, text in predictions.items()}, self._people)

    def score(
        self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]
    ) -> CaptioningScore:
        """Returns CIDEr-D and BLEU."""
        numbers = sorted(predictions)
        candidates = [words_of(predictions[number]) for number in numbers]
        first, second, third, fourth = bleu(candidates, [self._people[number] for number in numbers])
        return CaptioningScore(
            cider=float(self.values(predictions).mean()), bleu_1=first, bleu_2=second, bleu_3=third, bleu_4=fourth
        )
