"""How much a quantized file loses against FP32, with an interval that says how much so few images can prove.

A figure is the drop of the score over the images that were scored. Its interval is a paired percentile bootstrap
(`edgeq.tasks.resampling`): both files are scored on the same draws of the images.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.results.evaluation import ClassFigures, Score
from edgeq.results.rows import Row
from edgeq.results.serialization import OMIT_EMPTY
from edgeq.tasks import get_task
from edgeq.tasks.prediction_records import PredictionRecords, unpack_predictions
from edgeq.tasks.resampling import interval

_OTHER_IMAGES = "FP32 was scored on other images"
_NAMED = 3

FEW = 10
"""Fewest boxes (or images, for a classifier) from which the score of a class says anything."""


@dataclass(frozen=True)
class Drop:
    """By how much a score became worse.

    Attributes:
        name: `AP`, `AP_small`, `top1`, `cosine`, or a class's name.
        reference: The score of FP32; 0..1 for the tasks of edgeq.
        value: The score of the other file.
        low: Lower end of the interval of the drop, in points; `None` without one.
        high: Its upper end.
        support: How many boxes or images it was measured on; `None` if the results do not state it.
        lower_is_better: True for an error, which becomes worse by growing; absent otherwise.
    """

    name: str
    reference: float
    value: float
    low: float | None = None
    high: float | None = None
    support: int | None = None
    lower_is_better: bool | None = field(default=None, metadata=OMIT_EMPTY)

    @property
    def points(self) -> float:
        """The drop in points, hundredths of the score; negative for a gain."""
        return (-100 if self.lower_is_better else 100) * (self.reference - self.value)


class Comparison:
    """A file in an engine beside the FP32 file of the same model, in the same engine on the same device.

    Attributes:
        row: The file.
        reference: FP32; `None` where the results hold none.
        predictions: What the file said about each image; `None` if the results do not state it.
        reference_predictions: What FP32 said.
    """

    def __init__(
        self,
        row: Row,
        reference: Row | None,
        predictions: PredictionRecords | None,
        reference_predictions: PredictionRecords | None,
    ) -> None:
        self.row = row
        self.reference = reference
        self.predictions = predictions
        self.reference_predictions = reference_predictions

    @property
    def task(self) -> str | None:
        """The task of the model; `None` if it was not scored."""
        return None if self.row.score is None else self.row.score.task

    @property
    def without_interval(self) -> str | None:
        """Why there is no interval; `None` where there is one."""
        if self.predictions is None or self.reference_predictions is None:
            return "the results hold no predictions; run edgeq eval again"
        return self.unlike

    @functools.cached_property
    def unlike(self) -> str | None:
        """Why no score of the file can be compared with FP32's; `None` where they are of the same data."""
        scores, before = self.row.scores, None if self.reference is None else self.reference.scores
        if scores is None or before is None or scores.score.perfect is not None:
            return None
        if scores.images != before.images:
            return f"{_OTHER_IMAGES}: {before.images} instead of {scores.images}"
        if scores.skipped_images != before.skipped_images:
            return f"{_OTHER_IMAGES}: it skipped others"
        now, then = self.predictions, self.reference_predictions
        return None if now is None or then is None or now.has_truth_of(then) else _OTHER_IMAGES

    @functools.cached_property
    def unlike_classes(self) -> str | None:
        """Why the scores of single classes cannot be compared with FP32's; `None` where all of them can be."""
        if self.unlike is not None or self.reference is None or self.reference.score is None:
            return self.unlike
        now, before = _class_figures(self.row), _class_figures(self.reference)
        names, old_names = [each.name for each in now], [each.name for each in before]
        if names != old_names:
            differing = sorted({*names} ^ {*old_names})
            return (
                f"FP32 was scored on other classes: {', '.join(differing[:_NAMED]) or 'in another order, or repeated'}"
            )
        for each, old in zip(now, before, strict=True):
            if None not in (each.support, old.support) and each.support != old.support:
                return f"FP32 was scored on other labels: {old.support} of {each.name} instead of {each.support}"
            if each.values[0] is None and old.values[0] is not None:
                return f"{each.name} has no score, {old.values[0]:.4f} with FP32"
        return None

    @functools.cached_property
    def main(self) -> Drop | None:
        """The drop of the task's main score; of one that compares with FP32 already, from its perfect value."""
        score = self.row.score
        return None if score is None else self._drop(score, score.main)

    @functools.cached_property
    def parts(self) -> tuple[Drop, ...]:
        """The drops of the main score over parts of the data, such as AP of small boxes; those that were measured."""
        score = self.row.score
        drops = () if score is None else (self._drop(score, name) for name in score.parts)
        return tuple(drop for drop in drops if drop is not None)

    @functools.cached_property
    def classes(self) -> tuple[Drop, ...]:
        """The drop of each class's score, the most lost first; classes that the images do not hold left out."""
        if self.unlike_classes is not None or self.reference is None or self.reference.score is None:
            return ()
        # By their order, since two classes may have one name.
        before, now = _class_figures(self.reference), _class_figures(self.row)
        intervals = self._class_intervals() if now else []
        drops = []
        for number, (each, old) in enumerate(zip(now, before, strict=True)):
            reference, value = old.values[0], each.values[0]
            if reference is None or value is None:
                continue
            low, high = intervals[number] if number < len(intervals) else (None, None)
            drops.append(Drop(each.name, reference, value, low, high, each.support, self._lower_is_better))
        return tuple(sorted(drops, key=lambda drop: -drop.points))

    @property
    def _lower_is_better(self) -> bool | None:
        return (self.row.score is not None and self.row.score.lower_is_better) or None

    def _drop(self, score: Score, name: str) -> Drop | None:
        before = score.perfect if _is_compared_already(score, name) else _number(self.reference, name)
        value = _number(self.row, name)
        if before is None or value is None:
            return None
        resampled = self._resampled(score, name)
        low, high = (None, None) if resampled is None else interval(resampled)
        images = None if self.row.scores is None else self.row.scores.images
        return Drop(name, before, value, low, high, images, self._lower_is_better)

    def _pair(self) -> tuple[PredictionRecords, PredictionRecords] | None:
        if self.predictions is None or self.reference_predictions is None or self.without_interval:
            return None
        return self.predictions, self.reference_predictions

    def _resampled(self, score: Score, name: str) -> NDArray[np.float64] | None:
        """Returns the drop in points `(RESAMPLES,)` over each draw of the images."""
        if _is_compared_already(score, name) and self.predictions is not None and score.perfect is not None:
            return self._points(np.full(1, score.perfect), self.predictions.resampled(name))
        pair = self._pair()
        return None if pair is None else self._points(pair[1].resampled(name), pair[0].resampled(name))

    def _class_intervals(self) -> list[tuple[float, float] | tuple[None, None]]:
        pair = self._pair()
        if pair is None:
            return []
        now, before = (each.resampled_classes() for each in pair)
        return [interval(self._points(old, new)) for new, old in zip(now, before, strict=True)]

    def _points(self, before: NDArray[np.float64], now: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the drop over each draw; the first choice, all images, is none."""
        points: NDArray[np.float64] = (-100 if self._lower_is_better else 100) * (before - now)[1:]
        return points


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Returns a comparison for every row, in order; that of an FP32 row is with itself.

    Raises:
        InputError: the predictions of a result are damaged.
    """
    predictions = [_predictions(row) for row in rows]
    by_row = {id(row): each for row, each in zip(rows, predictions, strict=True)}
    return [
        Comparison(row, reference, each, None if reference is None else by_row[id(reference)])
        for row, each in zip(rows, predictions, strict=True)
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


def _predictions(row: Row) -> PredictionRecords | None:
    if row.scores is None or row.scores.predictions is None:
        return None
    kind = get_task(row.scores.score.task).records_type
    try:
        return unpack_predictions(row.scores.predictions, kind)
    except InputError as error:
        raise InputError(f"{row.artifact} in {row.runtime}: {error}") from error


def _is_compared_already(score: Score, name: str) -> bool:
    """Returns whether a number is a comparison with FP32 by itself."""
    return name == score.main and score.perfect is not None


def _number(row: Row | None, name: str) -> float | None:
    return None if row is None or row.score is None else row.score.numbers.get(name)


def _class_figures(row: Row | None) -> tuple[ClassFigures, ...]:
    return () if row is None or row.score is None else row.score.classes
