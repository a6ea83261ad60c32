"""Detections and annotated boxes of the images of a result, and what can be computed of them anew."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.average_precision import Matches, class_ap, match
from edgeq.tasks.detection.coco import GroundTruth
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.diagnosis import diagnose
from edgeq.tasks.detection.differences import most_different
from edgeq.tasks.detection.threshold import score_curve
from edgeq.tasks.evidence import Diagnosis, Example, ScoreCurve, require
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws, mean_present

# Names of numbers -> area of the boxes that they are over.
_AREAS = {"AP": "all", "AP_small": "small", "AP_medium": "medium", "AP_large": "large"}


@dataclass(frozen=True, eq=False)
class DetectionPredictions(PredictionRecords):
    """Detections and annotated boxes of images, in the order of COCO's image ids; image after image, boxes in a row.

    Attributes:
        classes: Names of the annotations' categories, by ascending id.
        images: File names, `N` of them.
        sizes_px: `(N, 2)` int32, width and height of each image; 0 where unknown.
        counts: `(N,)` int32, how many detections each has.
        boxes: `(D, 4)` float32: left, top, right, bottom in the image's pixels.
        scores: `(D,)` float32 in 0..1.
        labels: `(D,)` int32, position in `classes`.
        truth_counts: `(N,)` int32, how many annotated boxes each has.
        truth_boxes: `(G, 4)` float64: left, top, width, height, as COCO states them.
        truth_areas: `(G,)` float64.
        truth_labels: `(G,)` int32, position in `classes`.
        truth_crowd: `(G,)` uint8, 1 for a crowd.
    """

    task = "detection"
    classes: tuple[str, ...]
    images: tuple[str, ...]
    sizes_px: NDArray[np.int32]
    counts: NDArray[np.int32]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    truth_counts: NDArray[np.int32]
    truth_boxes: NDArray[np.float64]
    truth_areas: NDArray[np.float64]
    truth_labels: NDArray[np.int32]
    truth_crowd: NDArray[np.uint8]

    arrays = {  # noqa: RUF012 - a class attribute of the base
        "sizes_px": ("int32", "N2"),
        "counts": ("int32", "N"),
        "boxes": ("float32", "D4"),
        "scores": ("float32", "D"),
        "labels": ("int32", "D"),
        "truth_counts": ("int32", "N"),
        "truth_boxes": ("float64", "G4"),
        "truth_areas": ("float64", "G"),
        "truth_labels": ("int32", "G"),
        "truth_crowd": ("uint8", "G"),
    }

    @classmethod
    def of(
        cls, ground_truth: GroundTruth, categories: NDArray[np.int64], detections: Mapping[int, Detections]
    ) -> DetectionPredictions:
        """Returns the detections of the images that were scored, with their annotations.

        Args:
            ground_truth: The annotations.
            categories: Category id of every class index, see `edgeq.tasks.detection.categories.category_ids`.
            detections: Image id -> detections that count (`edgeq.tasks.detection.categories.counted_detections`); the
                images without an entry were not scored.
        """
        places = {category: number for number, category in enumerate(ground_truth.categories)}
        position = np.array([places.get(category, -1) for category in categories.tolist()], np.int32)
        ids = sorted(detections)
        records = {record.id: record for record in ground_truth.images}
        truth: dict[int, list[Mapping[str, Any]]] = {image: [] for image in ids}
        for entry in ground_truth.annotations:
            if entry["image_id"] in truth:
                truth[entry["image_id"]].append(entry)
        flat = [entry for image in ids for entry in truth[image]]
        found = [detections[image] for image in ids]
        return cls(
            classes=tuple(ground_truth.categories.values()),
            images=tuple(records[image].file_name for image in ids),
            sizes_px=np.array([(records[i].width_px, records[i].height_px) for i in ids], np.int32).reshape(-1, 2),
            counts=np.array([len(each) for each in found], np.int32),
            boxes=np.concatenate([each.boxes.reshape(-1, 4) for each in found]).astype(np.float32),
            scores=np.concatenate([each.scores for each in found]).astype(np.float32),
            labels=position[np.concatenate([each.classes for each in found]).astype(np.int64)],
            truth_counts=np.array([len(truth[image]) for image in ids], np.int32),
            truth_boxes=np.array([entry["bbox"] for entry in flat], np.float64).reshape(-1, 4),
            truth_areas=np.array([entry["area"] for entry in flat], np.float64),
            truth_labels=np.array([places[entry["category_id"]] for entry in flat], np.int32),
            truth_crowd=np.array([bool(entry["iscrowd"]) for entry in flat], np.uint8),
        )

    def __post_init__(self) -> None:
        require(self.counts.sum() == len(self.boxes) and self.counts.min(initial=0) >= 0, "counts do not add up")
        total = self.truth_counts.sum()
        require(total == len(self.truth_boxes) and self.truth_counts.min(initial=0) >= 0, "counts do not add up")
        for labels in (self.labels, self.truth_labels):
            inside = labels.min(initial=0) >= 0 and labels.max(initial=-1) < len(self.classes)
            require(bool(inside), "a box is of a class that is not named")
        for values in (self.boxes, self.scores, self.truth_boxes, self.truth_areas):
            require(bool(np.isfinite(values).all()), "a number is not finite")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns AP, over the boxes of one area if `name` is `AP_small`, `AP_medium` or `AP_large`."""
        return mean_present(self._class_ap(_AREAS[name]))

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the AP of each class."""
        return self._class_ap("all")

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images with the same boxes."""
        return (
            isinstance(other, DetectionPredictions)
            and self.images == other.images
            and np.array_equal(self.truth_boxes, other.truth_boxes)
            and np.array_equal(self.truth_labels, other.truth_labels)
        )

    def curve(self) -> ScoreCurve | None:
        """Returns F1 by score threshold; `None` without a box or a detection."""
        return score_curve(self._matches)

    def most_different(self, other: DetectionPredictions, threshold: float, count: int) -> Sequence[Example]:
        """Returns the images whose detections differ most."""
        return most_different(self, other, threshold, count)

    def diagnosis(self, threshold: float) -> Diagnosis | None:
        """Returns kinds of error, confused classes, precision by recall and reliability; `None` without a box."""
        return diagnose(self, threshold) if len(self.truth_boxes) else None

    @functools.cached_property
    def _matches(self) -> Matches:
        return match(self)

    def _class_ap(self, area: str) -> NDArray[np.float64]:
        """Returns the AP of each class `(classes, 1 + RESAMPLES)` over the boxes of one area; computed once."""
        if area not in self._class_aps:
            weights = draws(len(self.images))
            self._class_aps[area] = np.stack([class_ap(each, weights).mean(axis=0) for each in self._matches[area]])
        return self._class_aps[area]

    @functools.cached_property
    def _class_aps(self) -> dict[str, NDArray[np.float64]]:
        return {}
