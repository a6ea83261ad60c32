"""Text detection: precision, recall and their harmonic mean at an IoU of .5, as ICDAR 2015 counts them.

A rectangle is right if its IoU with a piece of text that no other rectangle has is above .5. A rectangle that lies by
more than half on illegible text does not count ("ICDAR 2015 Competition on Robust Reading", Karatzas et al., 2015).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.items import Item, image_files
from edgeq.results.evaluation import Score, ScoreColumn
from edgeq.tasks.base import Task
from edgeq.tasks.evidence import require
from edgeq.tasks.labelled_images import relative_names
from edgeq.tasks.polygons import areas, iou, overlaps
from edgeq.tasks.prediction_records import PredictionRecords
from edgeq.tasks.resampling import draws
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.shapes import Outline
from edgeq.tasks.text.regions import TextRegions
from edgeq.tasks.text.result_files import IcdarText
from edgeq.tasks.text.truth import TextTruth, load_text_truth, text_truth_of

if TYPE_CHECKING:
    from typing_extensions import Self

_IOU = _ON_ILLEGIBLE = 0.5
_LABEL, _ILLEGIBLE = "text", "illegible"


@dataclass(frozen=True, kw_only=True)
class TextDetectionScore(Score):
    """How well text is found, 0..1; `None` if there is nothing to count.

    Attributes:
        hmean: Harmonic mean of precision and recall.
        precision_50: Share of the rectangles that are right.
        recall_50: Share of the pieces of text that are found.
    """

    task = "text-detection"
    main = "hmean"
    figures = "Precision and recall of text"
    columns = (
        ScoreColumn("hmean", "hmean"),
        ScoreColumn("precision_50", "precision"),
        ScoreColumn("recall_50", "recall"),
    )
    hmean: float | None
    precision_50: float | None = None
    recall_50: float | None = None


@dataclass(frozen=True, eq=False)
class TextDetectionPredictions(PredictionRecords):
    """Counts per image.

    Attributes:
        images: File names, `N` of them.
        right: `(N,)` int32, rectangles that are right.
        found: `(N,)` int32, rectangles that count.
        pieces: `(N,)` int32, pieces of legible text.
    """

    task = "text-detection"
    finding_type = Outline
    arrays: ClassVar[Mapping[str, tuple[str, str]]] = {
        "right": ("int32", "N"),
        "found": ("int32", "N"),
        "pieces": ("int32", "N"),
    }
    images: tuple[str, ...]
    right: NDArray[np.int32]
    found: NDArray[np.int32]
    pieces: NDArray[np.int32]

    def __post_init__(self) -> None:
        most = np.minimum(self.found, self.pieces)
        require(bool((self.right >= 0).all() and (self.right <= most).all()), "counts contradict each other")

    def resampled(self, name: str) -> NDArray[np.float64]:
        """Returns the harmonic mean, the only number that is asked for."""
        right, found, pieces = (each @ draws(len(self.images)) for each in (self.right, self.found, self.pieces))
        with np.errstate(invalid="ignore"):
            hmean: NDArray[np.float64] = 2 * right / (found + pieces)
        return hmean

    def has_truth_of(self, other: PredictionRecords) -> bool:
        """Returns whether both are about the same images with as many pieces of text."""
        return (
            isinstance(other, TextDetectionPredictions)
            and self.images == other.images
            and np.array_equal(self.pieces, other.pieces)
        )


class TextDetectionTask(Task[TextRegions]):
    """Harmonic mean of precision and recall for models that find text."""

    name = "text-detection"
    decoders: ClassVar[Mapping[str, str]] = {"db": "edgeq.tasks.text.db:decode"}
    score_type = TextDetectionScore
    finding_type = Outline
    records_type = TextDetectionPredictions

    def __init__(self, source: Path, items: Sequence[Item], names: Sequence[str], truth: Sequence[TextTruth]) -> None:
        super().__init__(source, items, names)
        self._truth = truth

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a folder; see `edgeq.tasks.text.truth.load_text_truth`."""
        paths, truth = load_text_truth(annotations, images_dir)
        return cls(annotations or images_dir, image_files(paths), relative_names(paths, images_dir), truth)

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images with text, or with objects that are taken for it.

        Raises:
            InputError: the data set has no object.
        """
        return cls(split.source, split.items, [image.name for image in split.images], text_truth_of(split))

    def check(self, artifact: Artifact) -> None:
        """Raises nothing: text has no classes."""

    @classmethod
    def to_arrays(cls, prediction: TextRegions) -> Mapping[str, np.ndarray]:
        """Returns corners and scores."""
        return vars(prediction)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TextRegions:
        """Returns the pieces of text.

        Raises:
            ValueError: an array is missing, or of another dtype or shape.
        """
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
        require(found == {"corners": ("float32", (4, 2)), "scores": ("float32", ())}, f"arrays {found}")
        require(len(arrays["corners"]) == len(arrays["scores"]), "arrays of different lengths")
        return TextRegions(**arrays)

    @classmethod
    def findings(cls, artifact: Artifact, prediction: TextRegions) -> tuple[Outline, ...]:
        """Returns the rectangles around text, the best first."""
        rows = zip(prediction.corners.tolist(), prediction.scores.tolist(), strict=True)
        return tuple(Outline(_LABEL, 0, score, corners=tuple((x, y) for x, y in corners)) for corners, score in rows)

    def true_findings(self, number: int, artifact: Artifact) -> tuple[Outline, ...]:
        """Returns the pieces of text, with what they say; the illegible ones by another name."""
        truth = self._truth[number]
        rows = zip(truth.polygons, truth.ignored, truth.texts, strict=True)
        return tuple(
            Outline(
                _ILLEGIBLE if ignored else _LABEL, 0, corners=tuple((x, y) for x, y in polygon.tolist()),
                text="" if ignored else text,
            )
            for polygon, ignored, text in rows
        )  # fmt: skip

    @classmethod
    def result_files(cls) -> Mapping[str, type[ResultFile]]:
        """Returns the text files of ICDAR's competitions."""
        return {"icdar": IcdarText}

    def score(
        self, artifact: Artifact, predictions: Mapping[int, TextRegions], reference: Mapping[int, TextRegions]
    ) -> TextDetectionScore:
        """Returns precision, recall and their harmonic mean."""
        records = self.per_image(artifact, predictions, reference)
        right, found, pieces = (int(each.sum()) for each in (records.right, records.found, records.pieces))
        return TextDetectionScore(
            hmean=2 * right / (found + pieces) if found + pieces else None,
            precision_50=right / found if found else None,
            recall_50=right / pieces if pieces else None,
        )

    def per_image(
        self, artifact: Artifact, predictions: Mapping[int, TextRegions], reference: Mapping[int, TextRegions]
    ) -> TextDetectionPredictions:
        """Returns what is right, found and there in each image."""
        numbers = sorted(predictions)
        counts = np.array([_count(predictions[number], self._truth[number]) for number in numbers], np.int32)
        return TextDetectionPredictions(tuple(self.names[number] for number in numbers), *counts.T)


def _count(found: TextRegions, truth: TextTruth) -> tuple[int, int, int]:
    """Returns how many rectangles are right, how many count, and how many pieces of legible text there are."""
    legible = [polygon for polygon, ignored in zip(truth.polygons, truth.ignored, strict=True) if not ignored]
    illegible = [polygon for polygon, ignored in zip(truth.polygons, truth.ignored, strict=True) if ignored]
    rectangles = list(found.corners.astype(np.float64))
    if illegible and rectangles:
        covered = overlaps(rectangles, illegible).max(axis=1) / np.maximum(areas(rectangles), np.finfo(float).tiny)
        rectangles = [each for each, share in zip(rectangles, covered, strict=True) if share <= _ON_ILLEGIBLE]
    pairs = iou(legible, rectangles) > _IOU
    taken = np.zeros(len(rectangles), bool)
    for row in pairs:
        free = np.flatnonzero(row & ~taken)
        taken[free[:1]] = True
    return int(taken.sum()), len(rectangles), len(legible)
