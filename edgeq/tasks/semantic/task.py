"""Semantic segmentation: mean intersection over union, and the share of pixels that are right.

A class's pixels are counted over all images ("The Pascal Visual Object Classes Challenge", Everingham et al., 2010);
`miou` is the mean over the classes that occur in the truth or in what the model says. Pixels whose truth is `IGNORED`
do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Count
from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.results.evaluation import ClassFigures, Score, ScoreColumn
from edgeq.tasks.agreement import most_different_shown
from edgeq.tasks.base import Task
from edgeq.tasks.evidence import Example, Finding, require
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws, mean_present, number_of
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.semantic.areas import MaskFiles, area_difference, class_areas, compare_areas
from edgeq.tasks.semantic.class_map import IGNORED, ClassMap
from edgeq.tasks.semantic.truth import PixelTruth, load_pixel_truth, pixel_truth_of
from edgeq.tasks.shapes import ClassArea

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class SemanticClass:
    """Scores of one class over all pixels.

    Attributes:
        name: Name of the class; its index in digits if the model has no names.
        class_index: Index of the class.
        images: Images whose truth has the class.
        iou: Pixels that truth and model share, of those that either has, 0..1; `None` if neither has any.
        recall: Share of the class's true pixels that are found, 0..1; `None` without any.
    """

    name: str
    class_index: Count = 0
    images: Count | None = None
    iou: float | None = None
    recall: float | None = None


@dataclass(frozen=True, kw_only=True)
class SemanticScore(Score):
    """How well the pixels of images are classified, 0..1.

    Attributes:
        miou: Mean IoU over the classes.
        pixel_accuracy: Share of the pixels whose class is the true one.
        mean_recall: Mean over the classes of the share of their pixels that are found.
        per_class: Scores of every class.
    """

    task = "semantic-segmentation"
    main = "miou"
    figures = "IoU"
    columns = (
        ScoreColumn("miou", "mIoU"),
        ScoreColumn("pixel_accuracy", "pixel accuracy"),
        ScoreColumn("mean_recall", "mean recall", in_report=False),
    )
    class_titles = ("images", "IoU", "recall")
    miou: float | None
    pixel_accuracy: float | None = None
    mean_recall: float | None = None
    per_class: tuple[SemanticClass, ...] = ()

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """IoU and recall of every class."""
        return tuple(ClassFigures(each.name, each.images, (each.iou, each.recall)) for each in self.per_class)


@dataclass(frozen=True, eq=False)
class SemanticPredictions(PredictionRecords):
    """Counts of pixels; those whose truth is ignored are left out.

    Attributes:
        classes: Class names by index; indices in digits where the model has none.
        images: File names, `N` of them.
        shared: `(N, C)` int32, pixels whose true class the model says, by class.
        predicted: `(N, C)` int32, pixels that the model gives a class.
        truth: `(N, C)` int32, pixels of a class.
    """

    task = "semantic-segmentation"
    finding_type = ClassArea
    classes: tuple[str, ...]
    images: tuple[str, ...]
    shared: NDArray[np.int32]
    predicted: NDArray[np.int32]
    truth: NDArray[np.int32]

    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {
        "shared": ("int32", "NC"),
        "predicted": ("int32", "NC"),
        "truth": ("int32", "NC"),
    }

    def __post_init__(self) -> None:
        require(self.shared.shape[1] == len(self.classes), "counts of a class that is not named")
        least = np.minimum(self.predicted, self.truth)
        require(bool((self.shared >= 0).all() and (self.shared <= least).all()), "counts contradict each other")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns mIoU, the only number that is asked for."""
        return mean_present(self.resampled_classes())

    def resampled_classes(self) -> NDArray[np.float64]:
        """Returns the IoU of each class."""
        weights = draws(len(self.images))
        shared, union = (_products(each, weights) for each in (self.shared, self._union))
        with np.errstate(invalid="ignore"):
            iou: NDArray[np.float64] = shared / union
        return iou

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images with the same classes in them."""
        return (
            isinstance(other, SemanticPredictions)
            and self.images == other.images
            and np.array_equal(self.truth, other.truth)
        )

    def most_different(self, other: SemanticPredictions, threshold: float, count: int) -> Sequence[Example]:
        """Returns the images on which the most pixels are of another class."""
        return most_different_shown(self.shown, other.shown, threshold, count, compare_areas, area_difference)

    def score(self) -> SemanticScore:
        """Returns the scores over all images."""
        shared, union, truth = (each.sum(axis=0, dtype=np.int64) for each in (self.shared, self._union, self.truth))
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, recall = shared / union, shared / truth
        images = (self.truth > 0).sum(axis=0)
        total = int(truth.sum())
        return SemanticScore(
            miou=number_of(mean_present(iou)),
            pixel_accuracy=float(shared.sum() / total) if total else None,
            mean_recall=number_of(mean_present(recall)),
            per_class=tuple(
                SemanticClass(
                    name=name,
                    class_index=index,
                    images=int(images[index]),
                    iou=number_of(iou[index]),
                    recall=number_of(recall[index]),
                )
                for index, name in enumerate(self.classes)
            ),
        )

    @property
    def _union(self) -> NDArray[np.int64]:
        return self.predicted.astype(np.int64) + self.truth - self.shared


class SemanticTask(Task[ClassMap]):
    """Mean IoU of models that give every pixel a class."""

    name = "semantic-segmentation"
    decoders: ClassVar[Mapping[str, str]] = {"semantic": "edgeq.tasks.semantic.decoder:decode"}
    score_type = SemanticScore
    finding_type = ClassArea
    records_type = SemanticPredictions

    def __init__(self, truth: PixelTruth) -> None:
        super().__init__(truth.source, truth.items, truth.names)
        self._truth = truth

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.semantic.truth.load_pixel_truth`."""
        return cls(load_pixel_truth(annotations, images_dir))

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images with masks, or with the outlines of objects.

        Raises:
            InputError: the data set has neither.
        """
        return cls(pixel_truth_of(split))

    def check(self, artifact: Artifact) -> None:
        """Raises where the truth has other classes than the model."""
        self._truth.check_labels(artifact.labels)

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image has no mask, or another size than its mask."""
        stated, found = self._truth.size_px(number), (image.shape[1], image.shape[0])
        if stated is not None and stated != found:
            raise InputError(
                f"{self.paths[number]}: has {found[0]}x{found[1]} pixels, its truth {stated[0]}x{stated[1]}; wanted "
                "the images that the masks belong to, neither resized nor rotated"
            )

    @classmethod
    def to_arrays(cls, prediction: ClassMap) -> Mapping[str, np.ndarray]:
        """Returns the size of the image, and classes and lengths of the runs."""
        size = np.array([prediction.height_px, prediction.width_px], np.int32)
        return {"size": size, "classes": prediction.classes, "lengths": prediction.lengths}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ClassMap:
        """Returns the class map.

        Raises:
            ValueError: an array is missing, of another dtype or shape, or the runs do not fill the image.
        """
        found = {name: (array.dtype.name, array.ndim) for name, array in arrays.items()}
        require(found == {"size": ("int32", 1), "classes": ("uint8", 1), "lengths": ("int32", 1)}, f"arrays {found}")
        size, classes, lengths = arrays["size"], arrays["classes"], arrays["lengths"]
        require(size.shape == (2,) and classes.shape == lengths.shape, "runs of another form")
        fills = lengths.sum(dtype=np.int64) == size.prod(dtype=np.int64)
        require(bool(fills and size.min() > 0 and lengths.min(initial=1) > 0), "runs that do not fill the image")
        return ClassMap(int(size[0]), int(size[1]), classes, lengths)

    @classmethod
    def findings(cls, artifact: Artifact, prediction: ClassMap) -> tuple[ClassArea, ...]:
        """Returns the pixels of each class but the background, the largest share first."""
        return class_areas(prediction.pixels(), artifact)

    def true_findings(self, number: int, artifact: Artifact) -> tuple[ClassArea, ...]:
        """Returns the true pixels of each class but the background."""
        return class_areas(self._truth.pixels(number, artifact.labels), artifact)

    @classmethod
    def compare(
        cls, reference: Sequence[Finding], other: Sequence[Finding], truth: Sequence[Finding] | None
    ) -> tuple[tuple[ClassArea, ...], tuple[ClassArea, ...]]:
        """Returns the areas of both files, each split into what both say, and what only one does."""
        first, second, true = (
            [finding for finding in findings if isinstance(finding, ClassArea)]
            for findings in (reference, other, truth or ())
        )
        return compare_areas(first, second, None if truth is None else true)

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns masks of class indices."""
        return {"png": MaskFiles}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, ClassMap], reference: Mapping[int, ClassMap]
    ) -> SemanticScore:
        """Returns mean IoU, pixel accuracy, and the scores of each class."""
        return self.per_image(artifact, predictions, reference).score()

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, ClassMap], reference: Mapping[int, ClassMap]
    ) -> SemanticPredictions:
        """Returns counts of pixels by class."""
        numbers = sorted(predictions)
        labels = artifact.labels
        counts = np.stack([self._count(number, predictions[number], labels) for number in numbers], axis=1)
        present = int(np.flatnonzero(counts.any(axis=(0, 1))).max(initial=-1)) + 1
        classes = max(len(labels), present)
        names = labels if len(labels) == classes else (*labels, *map(str, range(len(labels), classes)))
        images = tuple(self.names[number] for number in numbers)
        return SemanticPredictions(tuple(names), images, *counts[:, :, :classes])

    def _count(self, number: int, prediction: ClassMap, labels: Sequence[str]) -> NDArray[np.int32]:
        """Returns `(3, 255)`: pixels that are right, predicted and true, by class."""
        truth = self._truth.pixels(number, labels)
        found = prediction.pixels()
        if truth.shape != found.shape:
            raise InputError(f"{self.names[number]}: its truth is of {truth.shape}, the prediction of {found.shape}")
        counted = truth != IGNORED
        truth, found = truth[counted], found[counted]
        planes = (truth[truth == found], found, truth)
        return np.stack([np.bincount(each, minlength=IGNORED)[:IGNORED] for each in planes]).astype(np.int32)


def _products(counts: NDArray[np.integer], weights: NDArray[np.int32]) -> NDArray[np.float64]:
    """Returns the sum of counts `(N, C)` over each choice of the images, `(C, draws)`."""
    total: NDArray[np.float64] = counts.T.astype(np.float64) @ weights
    return total
