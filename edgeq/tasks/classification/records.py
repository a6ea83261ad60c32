"""Scores and predictions of classifiers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn
from edgeq.tasks.classification.outputs import TOP
from edgeq.tasks.evidence import Confusion, Diagnosis, ordered, require
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws, mean_over_draws


@dataclass(frozen=True, kw_only=True)
class ClassificationClass:
    """Accuracy on the images of one class.

    Attributes:
        name: Name of the class; its index in digits if the model has no names.
        class_index: Index of the class.
        images: Images of the class.
        top1: Share of them that are recognised, 0..1; `None` without any.
    """

    name: str
    class_index: Count = 0
    images: Count | None = None
    top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassificationScore(Score):
    """Accuracy of a classifier, 0..1.

    Attributes:
        top1: Share of the images whose best class is the true one.
        top5: Share of the images whose true class is among the five best; `None` for fewer than six classes.
        per_class: Accuracy on every class.
    """

    task = "classification"
    main = "top1"
    figures = "Accuracy"
    columns = (ScoreColumn("top1", "top-1"), ScoreColumn("top5", "top-5"))
    class_titles = ("images", "top-1")
    top1: float | None
    top5: float | None = None
    per_class: tuple[ClassificationClass, ...] = ()

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """Top-1 accuracy of every class."""
        return tuple(ClassFigures(each.name, each.images, (each.top1,)) for each in self.per_class)


@dataclass(frozen=True, eq=False)
class ClassificationPredictions(PredictionRecords):
    """Ranked classes and the true class of images.

    Attributes:
        classes: Class names by index; indices in digits where the model has none.
        images: File names, `N` of them.
        ranked: `(N, K)` int32, class indices, best first.
        truth: `(N,)` int32, class indices.
    """

    task = "classification"
    classes: tuple[str, ...]
    images: tuple[str, ...]
    ranked: NDArray[np.int32]
    truth: NDArray[np.int32]

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {"ranked": ("int32", "NK"), "truth": ("int32", "N")}

    def __post_init__(self) -> None:
        for indices in (self.ranked, self.truth):
            inside = indices.min(initial=0) >= 0 and indices.max(initial=-1) < len(self.classes)
            require(bool(inside), "an image is of a class that is not named")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns top-1 accuracy, the only number that is asked for."""
        return mean_over_draws(self._right)

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the share of each class's images that are recognised."""
        weights = draws(len(self.images))
        members = np.arange(len(self.classes))[:, None] == self.truth
        with np.errstate(invalid="ignore"):
            shares: NDArray[np.float64] = (members * self._right) @ weights / (members @ weights)
        return shares

    def diagnosis(self, threshold: float) -> Diagnosis:
        """Returns which classes are taken for which; a ranking has no scores, and so no threshold."""
        counts = Counter(zip(self.truth.tolist(), self.ranked[:, 0].tolist(), strict=True))
        cells = (Confusion(self.classes[true], self.classes[found], count) for (true, found), count in counts.items())
        return Diagnosis(None, ordered(cells))

    @property
    def _right(self) -> NDArray[np.float64]:
        right: NDArray[np.float64] = (self.ranked[:, 0] == self.truth).astype(np.float64)
        return right


def score(
    ranked: NDArray[np.int64], truth: NDArray[np.int64], classes: int, names: Sequence[str] = ()
) -> ClassificationScore:
    """Returns the accuracy over at least one image.

    Args:
        ranked: Class indices `(images, TOP)` (or fewer columns, where there are fewer classes), best first.
        truth: Class index `(images,)`.
        classes: How many classes the model tells apart.
        names: Their names, by index; empty where the model has none.
    """
    hits = ranked == truth[:, None]
    images = np.bincount(truth, minlength=classes)
    right = np.bincount(truth[hits[:, 0]], minlength=classes)
    return ClassificationScore(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()) if classes > TOP else None,
        per_class=tuple(
            ClassificationClass(
                name=names[index] if names else str(index),
                class_index=index,
                images=int(images[index]),
                top1=float(right[index] / images[index]) if images[index] else None,
            )
            for index in range(classes)
        ),
    )
