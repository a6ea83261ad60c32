"""Transcription: what is written in an image, by exact match and edit distance, after stripping and upper-casing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.language.answers_task import AnswerRecords, AnswersTask
from edgeq.tasks.text.recognition import edit_distance

NAME = "transcription"

_REMEMBERED = 1 << 14
"""Pairs of texts whose distance is remembered: files of one model say mostly the same."""


@dataclass(frozen=True, kw_only=True)
class TranscriptionScore(Score):
    """How much of the text is read.

    Attributes:
        exact_match: Share of the answers that equal a true one, 0..1.
        levenshtein: Mean edit distance to the nearest true answer, in characters; answers without an end make it
            large.
        likeness: Mean of 1 - edit distance / length of the longer text, 0..1.
    """

    task = NAME
    main = "exact_match"
    figures = "Exact match and edit distance"
    columns = (
        ScoreColumn("exact_match", "exact match"),
        ScoreColumn("levenshtein", "Levenshtein"),
        ScoreColumn("likeness", "likeness"),
    )
    exact_match: float | None
    levenshtein: float | None = None
    likeness: float | None = None


class TranscriptionRecords(AnswerRecords):
    """Whether each answer is exact."""

    task = NAME


class TranscriptionTask(AnswersTask):
    """Exact match and edit distance of texts; the nearest of several true answers counts."""

    name = NAME
    score_type = TranscriptionScore
    records_type = TranscriptionRecords

    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns 1 for an exact answer, and 0 for any other."""
        return np.array([float(distance == 0) for distance, _ in self._distances(predictions)])

    def score(
        self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]
    ) -> TranscriptionScore:
        """Returns exact match, edit distance and likeness."""
        distances = self._distances(predictions)
        return TranscriptionScore(
            exact_match=float(self.values(predictions).mean()),
            levenshtein=float(np.mean([distance for distance, _ in distances])),
            likeness=float(np.mean([1 - distance / longer for distance, longer in distances])),
        )

    def _distances(self, predictions: Mapping[int, str]) -> list[tuple[int, int]]:
        """Returns the edit distance to the nearest true answer, and the longer of both lengths."""
        found = []
        for number in sorted(predictions):
            answer = _plain(predictions[number])
            pairs = [(answer, _plain(each)) for each in self.questions[number].answers]
            found.append(min((_distance(*pair), max(1, *map(len, pair))) for pair in pairs))
        return found


@functools.lru_cache(_REMEMBERED)
def _distance(answer: str, truth: str) -> int:
    return edit_distance(answer, truth)


def _plain(text: str) -> str:
    return text.strip().upper()
