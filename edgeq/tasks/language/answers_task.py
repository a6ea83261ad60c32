"""What tasks of answers share: a prediction is a text, and every question has a value of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, Suspicion
from edgeq.tasks.evidence import Finding, require
from edgeq.tasks.language.answers import load_answers
from edgeq.tasks.language.questions_task import Given, QuestionsTask
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import mean_over_draws

# From so many questions an answer that is always the same says something.
_ENOUGH = 20
_SAME, _TRULY_SAME = 0.9, 0.7
_ENDLESS, _FEW_ENDLESS = 4, 0.05


@dataclass(frozen=True, eq=False)
class AnswerRecords(PredictionRecords):
    """What each answer is worth.

    Attributes:
        images: Names of the questions, `N` of them.
        answers: What the model answered.
        values: `(N,)` float32: what the main number of the score is the mean of.
    """

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"values": ("float32", "N")}
    images: tuple[str, ...]
    answers: tuple[str, ...]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        require(len(self.answers) == len(self.images), "answers to other questions")
        require(bool(np.isfinite(self.values).all()), "a value is not finite")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns the mean value, the only number that is asked for."""
        return mean_over_draws(self.values.astype(np.float64))


class AnswersTask(QuestionsTask[str]):
    """Answers to questions; a prediction is a text."""

    finding_type = Finding

    def read(self, path: Path) -> Given[str]:
        """Returns the answers of a file; see `edgeq.tasks.language.answers.load_answers`."""
        found = load_answers(path)
        return Given(found.by_position(self.names, self.source), found.model, found.precision, found.runtime)

    @classmethod
    def to_arrays(cls, prediction: str) -> Mapping[str, np.ndarray]:
        """Returns the text's bytes, UTF-8, under the name `text`."""
        return {"text": np.frombuffer(prediction.encode(), np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> str:
        """Returns the text.

        Raises:
            ValueError: there are other arrays, or it is not UTF-8.
        """
        if arrays.keys() != {"text"} or arrays["text"].dtype != np.uint8 or arrays["text"].ndim != 1:
            raise ValueError(f"the arrays {', '.join(arrays)}")
        return arrays["text"].tobytes().decode()

    @classmethod
    def findings(cls, artifact: Artifact, prediction: str) -> tuple[Finding, ...]:
        """Returns the answer."""
        return (Finding(prediction),)

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Finding, ...]:
        """Returns the most frequent answer of people."""
        return (Finding(_most_frequent(self.questions[number].answers)[0]),)

    @abstractmethod
    def values(self, predictions: Mapping[int, str]) -> NDArray[np.float64]:
        """Returns what each answer is worth `(N,)`, by the questions' order; the main number is their mean.

        Args:
            predictions: Position of a question -> the answer.
        """

    def suspicions(self, artifact: Artifact, predictions: Mapping[int, str], score: Score) -> Sequence[Suspicion]:
        """Returns what is odd about answers: always the same one, or without an end."""
        if len(predictions) < _ENOUGH:
            return ()
        found = []
        answer, share = _most_frequent([_plain(each) for each in predictions.values()])
        true = [_plain(_most_frequent(self.questions[number].answers)[0]) for number in predictions]
        if share >= _SAME and _most_frequent(true)[1] < _TRULY_SAME:
            found.append(
                Suspicion(
                    text=f"{share:.0%} of the answers are {answer[:40]!r}, whatever was asked: the vision part may be "
                    "blind, check its precision and how images are prepared"
                )
            )
        longest = max(len(each) for question in self.questions for each in question.answers)
        endless = sum(len(each) > _ENDLESS * longest for each in predictions.values()) / len(predictions)
        if endless > _FEW_ENDLESS:
            found.append(
                Suspicion(
                    text=f"{endless:.0%} of the answers are over {_ENDLESS} times as long as the longest true one: the "
                    "model may not end its answers, check the end token, the prompt and the decoder's precision"
                )
            )
        return found

    def one_answer(self, artifact: Artifact, numbers: Sequence[int]) -> Mapping[int, str]:
        """Returns the most frequent true answer, to each question."""
        answer, _ = _most_frequent([_most_frequent(self.questions[number].answers)[0] for number in numbers])
        return dict.fromkeys(numbers, answer)

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, str], reference: Mapping[int, str]
    ) -> PredictionRecords:
        """Returns what each answer is worth."""
        numbers = sorted(predictions)
        records: type[AnswerRecords] = self.records_type  # type: ignore[assignment]
        return records(
            images=tuple(self.names[number] for number in numbers),
            answers=tuple(predictions[number] for number in numbers),
            values=self.values(predictions).astype(np.float32),
        )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _most_frequent(texts: Sequence[str]) -> tuple[str, float]:
    """Returns the most frequent of texts, and its share of them."""
    ((text, count),) = Counter(texts).most_common(1)
    return text, count / len(texts)
