"""How much a quantized file loses against FP32, with an interval that says how much so few images can prove.

A figure is the drop of the score over the images that were scored. Its interval is a paired percentile bootstrap (Efron
and Tibshirani, "An Introduction to the Bootstrap", 1993): images are drawn with replacement, both files are scored on
the same draw, and the middle 95 % of 1,000 such drops are the interval. The draws repeat from run to run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.reporting.average_precision import Matches, class_ap, match, mean_ap
from edgeq.results.evaluation import ClassificationScore, DetectionScore, Score
from edgeq.results.rows import Row
from edgeq.tasks.prediction_records import (
    ClassificationPredictions,
    DetectionPredictions,
    EmbeddingPredictions,
    Predictions,
    unpack_predictions,
)

RESAMPLES = 1000
CONFIDENCE = 0.95
FEW = 10
"""Fewest boxes (or images, for a classifier) from which the score of a class says anything."""

_SEED = 20


@dataclass(frozen=True)
class Drop:
    """By how much a score fell.

    Attributes:
        name: `AP`, `AP_small`, `top1`, `cosine`, or a class's name.
        reference: The score of FP32, 0..1.
        value: The score of the other file.
        low: Lower end of the interval of the drop, in points; `None` where there is no interval.
        high: Its upper end.
        support: How many boxes or images it was measured on; `None` where the results do not tell.
    """

    name: str
    reference: float
    value: float
    low: float | None = None
    high: float | None = None
    support: int | None = None

    @property
    def points(self) -> float:
        """The drop in points, hundredths of the score; negative for a gain."""
        return 100 * (self.reference - self.value)


class Scored:
    """The predictions of one row, matched once."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self._per_class: dict[str, NDArray[np.float64]] = {}

    @functools.cached_property
    def matches(self) -> Matches:
        """Its detections matched with the boxes."""
        if not isinstance(self.predictions, DetectionPredictions):
            raise TypeError(f"predictions for {self.predictions.task} have no boxes")
        return match(self.predictions)

    def per_class(self, area: str) -> NDArray[np.float64]:
        """Returns the AP of each class `(classes, 1 + RESAMPLES)`: over all images, then over each draw of them."""
        if area not in self._per_class:
            weights = draws(len(self.predictions.images))
            classes = [class_ap(each, weights).mean(axis=0) for each in self.matches[area]]
            self._per_class[area] = np.stack(classes)
        return self._per_class[area]


@functools.lru_cache(maxsize=8)
def draws(images: int) -> NDArray[np.int32]:
    """Returns how often each image is in each choice, `(images, 1 + RESAMPLES)`; the first choice is all of them."""
    drawn = np.random.default_rng(_SEED).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    return np.concatenate([np.ones((1, images), np.int64), drawn]).T.astype(np.int32)


class Comparison:
    """A file in an engine beside the FP32 file of the same model, in the same engine on the same device.

    Attributes:
        row: The file.
        reference: FP32; `None` where the results hold none.
    """

    def __init__(self, row: Row, reference: Row | None, scored: Scored | None, reference_scored: Scored | None) -> None:
        self.row = row
        self.reference = reference
        self.scored = scored
        self.reference_scored = reference_scored

    @property
    def task(self) -> str | None:
        """The task of the model; `None` where it was not scored."""
        return None if self.row.score is None else self.row.score.task

    @property
    def without_interval(self) -> str | None:
        """Why there is no interval; `None` where there is one."""
        if self.scored is None or self.reference_scored is None:
            return "the results hold no predictions; run edgeq eval again"
        if not _same_images(self.scored.predictions, self.reference_scored.predictions):
            return "FP32 was scored on other images"
        return None

    @functools.cached_property
    def main(self) -> Drop | None:
        """The drop of the task's main score; of embeddings that of their cosine to the float model's, from 1."""
        score = self.row.score
        return None if score is None else self._drop(score.main, self._resampled("all"))

    def area(self, area: str) -> Drop | None:
        """Returns the drop of AP over boxes of one area; `None` where there is no such box, or it is no detector."""
        return self._drop(f"AP_{area}", self._resampled(area)) if self.task == "detection" else None

    @functools.cached_property
    def classes(self) -> tuple[Drop, ...]:
        """The drop of each class's AP or top-1, the most lost first; classes that the images do not hold left out."""
        if self.reference is None or self.task not in ("detection", "classification"):
            return ()
        before = {name: value for name, value, _ in _class_scores(self.reference.score)}
        drops = []
        intervals = self._class_intervals()
        for number, (name, value, support) in enumerate(_class_scores(self.row.score)):
            reference = before.get(name)
            if reference is None or value is None:
                continue
            low, high = intervals[number] if intervals is not None and number < len(intervals) else (None, None)
            drops.append(Drop(name, reference, value, low, high, support))
        return tuple(sorted(drops, key=lambda drop: -drop.points))

    def _drop(self, name: str, resampled: NDArray[np.float64] | None) -> Drop | None:
        before = 1.0 if name == "cosine" else _number(self.reference, name)
        value = _number(self.row, name)
        if before is None or value is None:
            return None
        low, high = (None, None) if resampled is None else _interval(resampled)
        return Drop(name, before, value, low, high, None if self.row.scores is None else self.row.scores.images)

    def _pair(self) -> tuple[Scored, Scored] | None:
        if self.scored is None or self.reference_scored is None or self.without_interval:
            return None
        return self.scored, self.reference_scored

    def _resampled(self, area: str) -> NDArray[np.float64] | None:
        """Returns the drop in points `(RESAMPLES,)` over each draw of the images."""
        if self.task == "embedding" and self.scored is not None:
            return 100 * (1 - _mean_of(_cosines(self.scored)))[1:]
        pair = self._pair()
        if pair is None:
            return None
        now, before = (
            mean_ap(each.per_class(area)) if self.task == "detection" else _mean_of(_right(each)) for each in pair
        )
        return 100 * (before - now)[1:]

    def _class_intervals(self) -> list[tuple[float, float] | tuple[None, None]] | None:
        pair = self._pair()
        if pair is None:
            return None
        if self.task == "detection":
            now, before = (each.per_class("all") for each in pair)
        else:
            now, before = (_per_class(each) for each in pair)
        return [_interval(100 * (old - new)[1:]) for new, old in zip(now, before, strict=True)]


def _number(row: Row | None, name: str) -> float | None:
    return None if row is None or row.score is None else row.score.numbers.get(name)


def _class_scores(score: Score | None) -> list[tuple[str, float | None, int | None]]:
    """Returns name, AP or top-1, and number of boxes or images of each class; none for a task without classes."""
    if isinstance(score, DetectionScore):
        return [(each.name, each.ap, each.boxes) for each in score.per_class]
    if isinstance(score, ClassificationScore):
        return [(each.name, each.top1, each.images) for each in score.per_class]
    return []


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Returns a comparison for every row, in order; that of an FP32 row is with itself.

    Raises:
        InputError: the predictions of a result are damaged.
    """
    scored = [_scored(row) for row in rows]
    by_row = {id(row): each for row, each in zip(rows, scored, strict=True)}
    return [
        Comparison(row, reference, each, None if reference is None else by_row[id(reference)])
        for row, each in zip(rows, scored, strict=True)
        for reference in [find_reference(row, rows)]
    ]


def find_reference(row: Row, rows: Sequence[Row]) -> Row | None:
    """Returns the FP32 row, computed in f32, of the same model, runtime and device; `None` without one.

    Of several, that of the same version of the engine, of the same target, and one that was scored come first.
    """
    candidates = [other for other in rows if other.is_float and _origin(other) == _origin(row)]
    return max(
        candidates,
        key=lambda other: (
            other is row,
            other.engine == row.engine,
            other.target == row.target,
            other.scores is not None,
        ),
        default=None,
    )


def _origin(row: Row) -> tuple[str, str, str]:
    return row.model, row.runtime, row.device


def _scored(row: Row) -> Scored | None:
    if row.scores is None or row.scores.predictions is None:
        return None
    try:
        predictions = unpack_predictions(row.scores.predictions)
    except InputError as error:
        raise InputError(f"{row.artifact} in {row.runtime}: {error}") from error
    if predictions.task != row.scores.score.task:
        raise InputError(
            f"{row.artifact} in {row.runtime}: its predictions are for {predictions.task}, its scores for "
            f"{row.scores.score.task}; run `edgeq eval` again"
        )
    return Scored(predictions)


def _same_images(first: Predictions, second: Predictions) -> bool:
    if first.images != second.images or first.task != second.task:
        return False
    if isinstance(first, DetectionPredictions) and isinstance(second, DetectionPredictions):
        truth = ((each.truth_boxes, each.truth_labels) for each in (first, second))
        return all(np.array_equal(one, other) for one, other in zip(*truth, strict=True))
    return True


def _right(scored: Scored) -> NDArray[np.float64]:
    predictions = scored.predictions
    if not isinstance(predictions, ClassificationPredictions):
        raise TypeError(f"predictions for {predictions.task} rank no classes")
    right: NDArray[np.float64] = (predictions.ranked[:, 0] == predictions.truth).astype(np.float64)
    return right


def _cosines(scored: Scored) -> NDArray[np.float64]:
    predictions = scored.predictions
    if not isinstance(predictions, EmbeddingPredictions):
        raise TypeError(f"predictions for {predictions.task} have no embeddings")
    return predictions.cosines.astype(np.float64)


def _mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the mean of a value an image `(N,)` over each draw `(1 + RESAMPLES,)`."""
    mean: NDArray[np.float64] = values @ draws(len(values)) / len(values)
    return mean


def _per_class(scored: Scored) -> NDArray[np.float64]:
    """Returns the share of each class's images that are recognised `(classes, 1 + RESAMPLES)`."""
    predictions = scored.predictions
    right = _right(scored)
    if not isinstance(predictions, ClassificationPredictions):
        raise TypeError(f"predictions for {predictions.task} rank no classes")
    weights = draws(len(right))
    members = np.arange(len(predictions.classes))[:, None] == predictions.truth
    with np.errstate(invalid="ignore"):
        shares: NDArray[np.float64] = (members * right) @ weights / (members @ weights)
    return shares


def _interval(drops: NDArray[np.float64]) -> tuple[float, float] | tuple[None, None]:
    """Returns the middle `CONFIDENCE` of drops; none where no draw held what is scored."""
    present = drops[~np.isnan(drops)]
    if not len(present):
        return None, None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(present, [tail, 100 - tail])
    return float(low), float(high)
