"""Records of objects whose comparison takes more than boxes: which result matches an object, at every threshold.

Masks of a data set would make a result as large as its images; average precision needs only what matches what.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.average_precision import ClassMatches, class_ap
from edgeq.tasks.detection.threshold import score_curve
from edgeq.tasks.evidence import ScoreCurve, require
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws, mean_present

Matched = TypeVar("Matched", bound="MatchedPredictions")


@dataclass(frozen=True, eq=False)
class MatchedPredictions(PredictionRecords):
    """Results of images and what they match; image after image, in a class's order of scores.

    Attributes:
        areas: Name of a number -> its axis `A` below: AP over objects of that area. The first is over all.
        thresholds: How many IoU thresholds a match is tried at.
        classes: Names of the classes, `C` of them.
        images: File names, `N` of them.
        counts: `(N,)` int32, how many results each has.
        scores: `(D,)` float64.
        labels: `(D,)` int32, position in `classes`.
        hits: `(D, A)` int32; bit t is set if the result is a true positive at threshold t.
        ignored: `(D, A)` int32; bit t is set if it counts as neither true nor false.
        objects: `(N, C, A)` int32, how many objects of each class should be found.
    """

    areas: ClassVar[Mapping[str, int]]
    thresholds: ClassVar[int] = 10
    classes: tuple[str, ...]
    images: tuple[str, ...]
    counts: NDArray[np.int32]
    scores: NDArray[np.float64]
    labels: NDArray[np.int32]
    hits: NDArray[np.int32]
    ignored: NDArray[np.int32]
    objects: NDArray[np.int32]

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {
        "counts": ("int32", "N"),
        "scores": ("float64", "D"),
        "labels": ("int32", "D"),
        "hits": ("int32", "DA"),
        "ignored": ("int32", "DA"),
        "objects": ("int32", "NCA"),
    }

    @classmethod
    def of(
        cls: type[Matched],
        classes: Sequence[str],
        images: Sequence[str],
        evaluated: Sequence[Mapping[str, Any] | None],
    ) -> Matched:
        """Returns the records of what pycocotools found, see `coco_engine.match_problem`."""
        areas = len(cls.areas)
        objects = np.zeros((len(images), len(classes), areas), np.int32)
        found: list[list[tuple[NDArray[np.float64], int, NDArray[np.int32], NDArray[np.int32]]]] = [[] for _ in images]
        for number in range(len(images)):
            for label in range(len(classes)):
                first = label * areas * len(images) + number
                entries = [evaluated[first + area * len(images)] for area in range(areas)]
                present = [each for each in entries if each is not None]
                if not present:
                    continue
                for area, each in enumerate(present):
                    objects[number, label, area] = np.count_nonzero(np.asarray(each["gtIgnore"]) == 0)
                ignored = [np.asarray(each["dtIgnore"], bool) for each in present]
                hits = [np.asarray(each["dtMatches"]) > 0 for each in present]
                bits = [np.stack([pack_bits(each) for each in planes], axis=1) for planes in (hits, ignored)]
                scores = np.asarray(present[0]["dtScores"], np.float64)
                found[number].append((scores, label, bits[0] & ~bits[1], bits[1]))
        flat = [each for image in found for each in image]
        nothing = np.zeros((0, areas), np.int32)
        return cls(
            classes=tuple(classes),
            images=tuple(images),
            counts=np.array([sum(len(each[0]) for each in image) for image in found], np.int32),
            scores=np.concatenate([np.zeros(0), *(each[0] for each in flat)]),
            labels=np.concatenate(
                [np.zeros(0, np.int32), *(np.full(len(each[0]), each[1], np.int32) for each in flat)]
            ),
            hits=np.concatenate([nothing, *(each[2] for each in flat)]),
            ignored=np.concatenate([nothing, *(each[3] for each in flat)]),
            objects=objects,
        )

    def __post_init__(self) -> None:
        require(self.counts.sum() == len(self.scores) and self.counts.min(initial=0) >= 0, "counts do not add up")
        require(self.objects.shape[1:] == (len(self.classes), len(self.areas)), "objects of a class without a name")
        require(self.hits.shape[1] == len(self.areas), "matches of other areas")
        require(self.objects.min(initial=0) >= 0, "fewer objects than none")
        inside = self.labels.min(initial=0) >= 0 and self.labels.max(initial=-1) < len(self.classes)
        require(bool(inside), "a result is of a class that is not named")
        require(bool(np.isfinite(self.scores).all()), "a number is not finite")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns AP, over the objects of one area."""
        return mean_present(self._class_ap(self.areas[name]))

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the AP of each class."""
        return self._class_ap(0)

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images with as many objects of each class and area."""
        return (
            isinstance(other, MatchedPredictions)
            and self.images == other.images
            and np.array_equal(self.objects, other.objects)
        )

    def curve(self) -> ScoreCurve | None:
        """Returns F1 by score threshold at the least IoU threshold; `None` without an object or a result."""
        return score_curve({"all": self.matches(0)})

    def matches(self, area: int) -> tuple[ClassMatches, ...]:
        """Returns the matches of every class with the objects of one area."""
        images = np.repeat(np.arange(len(self.images)), self.counts)
        found = []
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.labels == label)
            # Stable, as pycocotools sorts: equal scores stay in the order of the images.
            mine = mine[np.argsort(-self.scores[mine], kind="stable")]
            hits, ignored = (self._planes(each[mine, area]) for each in (self.hits, self.ignored))
            objects = self.objects[:, label, area].astype(np.int64)
            found.append(ClassMatches(self.scores[mine], images[mine], hits, ignored, objects))
        return tuple(found)

    def _planes(self, bits: NDArray[np.int32]) -> NDArray[np.bool_]:
        return (bits >> np.arange(self.thresholds, dtype=np.int32)[:, None] & 1).astype(bool)

    def _class_ap(self, area: int) -> NDArray[np.float64]:
        """Returns the AP of each class `(classes, 1 + RESAMPLES)` over the objects of one area; computed once."""
        if area not in self._class_aps:
            weights = draws(len(self.images))
            self._class_aps[area] = np.stack([class_ap(each, weights).mean(axis=0) for each in self.matches(area)])
        return self._class_aps[area]

    @functools.cached_property
    def _class_aps(self) -> dict[int, NDArray[np.float64]]:
        return {}


def pack_bits(planes: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Returns thresholds `(T, n)` as bits `(n,)`."""
    bits: NDArray[np.int32] = (planes.astype(np.int32) << np.arange(len(planes), dtype=np.int32)[:, None]).sum(
        axis=0, dtype=np.int32
    )
    return bits
