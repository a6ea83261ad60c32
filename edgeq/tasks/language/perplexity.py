"""Perplexity: how well a model foresees texts, token by token, in windows that overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count, parse_json
from edgeq.errors import InputError, MismatchError
from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.evidence import require
from edgeq.tasks.language.questions import numbered_lines
from edgeq.tasks.language.questions_task import Given, QuestionsTask
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws

NAME = "perplexity"

_KIND = 'JSON lines of {"id", "start", "logprobs"}'

LogProbabilities = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class PerplexityScore(Score):
    """How well texts are foreseen.

    Attributes:
        perplexity: exp(- mean log-probability of a token) over all texts; only comparable between models with the same
            tokens.
        bits_per_byte: Bits that a byte of the text costs, UTF-8; comparable between all models.
        tokens: How many tokens were foreseen.
    """

    task = NAME
    main = "perplexity"
    lower_is_better = True
    figures = "Perplexity"
    columns = (ScoreColumn("perplexity", "perplexity"), ScoreColumn("bits_per_byte", "bits / byte"))
    perplexity: float | None
    bits_per_byte: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, eq=False)
class PerplexityRecords(PredictionRecords):
    """How well each text is foreseen.

    Attributes:
        images: Names of the texts, `N` of them.
        sums: `(N,)` float64, log-probabilities of the tokens of each, added up.
        tokens: `(N,)` int32, how many they are.
    """

    task = NAME
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"sums": ("float64", "N"), "tokens": ("int32", "N")}
    images: tuple[str, ...]
    sums: NDArray[np.float64]
    tokens: NDArray[np.int32]

    def __post_init__(self) -> None:
        require(bool(np.isfinite(self.sums).all() and (self.sums <= 0).all()), "a log-probability is not below 0")
        require(bool((self.tokens > 0).all()), "a text has no tokens")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns the perplexity over each choice of the texts, the only number that is asked for."""
        chosen = draws(len(self.images))
        found: NDArray[np.float64] = np.exp(-(self.sums @ chosen) / (self.tokens @ chosen))
        return found


class PerplexityTask(QuestionsTask[LogProbabilities]):
    """Perplexity of texts; a prediction is the log-probability of each token of one, natural logarithm."""

    name = NAME
    score_type = PerplexityScore
    records_type = PerplexityRecords
    asks_for = "likelihood"

    def read(self, path: Path) -> Given[LogProbabilities]:
        """Returns the log-probabilities of a file.

        Args:
            path: JSON lines of `id`, `start` (position of the first token, 1 by default: nothing foresees a text's
                first token) and `logprobs`, one per token. A text may have several lines, whose windows overlap: of a
                token in several, the window that begins first counts, because the model saw most in it.

        Raises:
            InputError: the file has another form, a probability is above 1, or windows leave a gap.
            MismatchError: it is about other texts.
        """
        windows: dict[str, list[_Window]] = {}
        head = _Window()
        for number, text in numbered_lines(path, _KIND):
            window = parse_json(text.encode(), _Window, source=f"{path}: line {number}", kind=_KIND)
            if window.id is None:
                if windows or window.logprobs:
                    raise InputError(f"{path}: line {number} has no 'id'; expected {_KIND}")
                head = window
                continue
            windows.setdefault(str(window.id), []).append(window)
        if windows.keys() != set(self.names):
            odd = sorted(windows.keys() ^ set(self.names))
            raise MismatchError(f"{path}: is about other texts than {self.source}, such as {odd[0]!r}; wanted the same")
        found = {position: _merged(windows[name], path, name) for position, name in enumerate(self.names)}
        return Given(found, head.model, head.precision, head.runtime)

    @classmethod
    def to_arrays(cls, prediction: LogProbabilities) -> Mapping[str, np.ndarray]:
        """Returns the log-probabilities under the name `logprobs`."""
        return {"logprobs": prediction}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LogProbabilities:
        """Returns the log-probabilities.

        Raises:
            ValueError: there are other arrays, or they are not log-probabilities.
        """
        if arrays.keys() != {"logprobs"} or arrays["logprobs"].dtype != np.float32 or arrays["logprobs"].ndim != 1:
            raise ValueError(f"the arrays {', '.join(arrays)}")
        return arrays["logprobs"]

    def score(
        self, artifact: Artifact, predictions: Mapping[int, Any], reference: Mapping[int, Any]
    ) -> PerplexityScore:
        """Returns the perplexity, and the bits of a byte."""
        records = self.per_image(artifact, predictions, reference)
        total, tokens = float(records.sums.sum()), int(records.tokens.sum())
        size = sum(len(self.questions[number].answers[0].encode()) for number in predictions)
        return PerplexityScore(
            perplexity=float(np.exp(-total / tokens)),
            bits_per_byte=-total / np.log(2) / size if size else None,
            tokens=tokens,
        )

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, Any], reference: Mapping[int, Any]
    ) -> PerplexityRecords:
        """Returns the log-probability of each text, and its tokens."""
        numbers = sorted(predictions)
        return PerplexityRecords(
            images=tuple(self.names[number] for number in numbers),
            sums=np.array([predictions[number].astype(np.float64).sum() for number in numbers]),
            tokens=np.array([len(predictions[number]) for number in numbers], np.int32),
        )


class _Window(msgspec.Struct):
    """A line: a window of a text, or in the first one what foresaw it."""

    id: str | int | None = None
    start: Count = 1
    logprobs: list[float] = msgspec.field(default_factory=list)
    model: str = ""
    precision: str = ""
    runtime: str = ""


def _merged(windows: list[_Window], path: Path, name: str) -> LogProbabilities:
    """Returns the log-probabilities of a text, each token's from the window that begins first."""
    found: list[float] = []
    ordered = sorted(windows, key=lambda window: window.start)
    end = ordered[0].start
    for window in ordered:
        if window.start > end:
            raise InputError(f"{path}: {name!r} has no log-probabilities for tokens {end} to {window.start - 1}")
        new = window.logprobs[end - window.start :]
        found += new
        end += len(new)
    if not found:
        raise InputError(f"{path}: {name!r} has no log-probabilities; expected {_KIND}")
    if max(found) > 0:
        raise InputError(f"{path}: {name!r} has the log-probability {max(found):g}; wanted natural logarithms, <= 0")
    return np.array(found, np.float32)
