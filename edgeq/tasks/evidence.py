"""What can be shown of predictions besides numbers: findings in images, curves over thresholds, and kinds of error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from edgeq.exporting.artifact import Artifact
from edgeq.results.serialization import OMIT_EMPTY


@dataclass(frozen=True)
class ScoreCurve:
    """F1 over all classes at IoU .50, by threshold.

    Attributes:
        thresholds: 0, .01, ..., 1.
        f1: F1 where detections of at least that score count, 0..1.
        best_threshold: Lowest score of the detections that give the best F1.
        best_f1: The best F1.
    """

    thresholds: tuple[float, ...]
    f1: tuple[float, ...]
    best_threshold: float
    best_f1: float

    def at(self, threshold: float) -> float:
        """Returns F1 at a threshold, from the nearest one of the curve."""
        return self.f1[round(threshold * (len(self.f1) - 1))]


def require(holds: bool, otherwise: str) -> None:
    """Raises `ValueError` with the text unless the condition holds."""
    if not holds:
        raise ValueError(otherwise)


Mark = Literal["both", "alone", "lost", "won", "false alarm"]


@dataclass(frozen=True)
class Finding:
    """One thing that a model says about an image, or that is true of it.

    Attributes:
        label: Class name.
        class_index: Index of the class, which decides its colour.
        score: Score, 0..1; `None` for an annotation, and where the model gives none.
        mark: What became of it, compared with another file: `both` find it, or only this one does and it is `lost`,
            `won`, a `false alarm` or, where the truth is not known, `alone`; `None` if no other file was asked.
    """

    label: str
    class_index: int = 0
    score: float | None = None
    mark: Mark | None = field(default=None, metadata=OMIT_EMPTY, kw_only=True)

    @property
    def is_shared(self) -> bool:
        """Whether the other file finds it too, or none was asked."""
        return self.mark in (None, "both")

    def describe(self) -> str:
        """Returns how a picture labels it: what became of it, its class, and its score if it has one."""
        mark = f"{self.mark}: " if self.mark in ("lost", "won", "false alarm") else ""
        score = "" if self.score is None else f" {self.score:.2f}"
        return f"{mark}{self.title}{score}"

    @property
    def title(self) -> str:
        """What it is: the class, unless there is more to say."""
        return self.label


def label_of(artifact: Artifact, index: int) -> str:
    """Returns the name of a class of a model; of a model without names its number."""
    return artifact.labels[index] if index < len(artifact.labels) else f"class {index}"


@dataclass(frozen=True, kw_only=True)
class Box(Finding):
    """A box in an image's pixels.

    Attributes:
        left: Left edge.
        top: Upper edge.
        width: Width.
        height: Height.
    """

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class ExampleBox(Box):
    """A box of an example.

    Attributes:
        shared: Whether the other file sees it too; true for an annotation.
    """

    shared: bool = True


@dataclass(frozen=True)
class Example:
    """What two files find in one image.

    Attributes:
        image: File name.
        width_px: Width of the image.
        height_px: Height of the image.
        difference: Sum of the scores of what only one file finds, and of the differences of what both find.
        reference: Findings of the reference.
        other: Findings of the other file.
        truth: What is true.
    """

    image: str
    width_px: int
    height_px: int
    difference: float
    reference: tuple[Finding, ...]
    other: tuple[Finding, ...]
    truth: tuple[Finding, ...]


@dataclass(frozen=True)
class ErrorKind:
    """The errors of one kind.

    Attributes:
        kind: What they are called; of a detector one of `edgeq.tasks.detection.tide.KINDS`.
        count: How many there are.
        cost: By how much the score would rise without them, 0..1: of a detector, AP at IoU .50.
    """

    kind: str
    count: int
    cost: float


@dataclass(frozen=True)
class Confusion:
    """A cell of the confusion matrix that is not empty.

    Attributes:
        truth: True class; `None` where there is nothing (a false alarm).
        found: Class that the model says; `None` if it says nothing (a miss).
        count: How often.
    """

    truth: str | None
    found: str | None
    count: int


def ordered(cells: Iterable[Confusion]) -> tuple[Confusion, ...]:
    """Returns the cells of a confusion matrix: the errors first, the most frequent ones before the others."""

    def place(cell: Confusion) -> tuple[bool, int, str, str]:
        return cell.truth == cell.found, -cell.count, str(cell.truth), str(cell.found)

    return tuple(sorted(cells, key=place))


@dataclass(frozen=True)
class ScoreBin:
    """Predictions of similar scores.

    Attributes:
        low: Least score of the bin.
        high: Where the next bin begins.
        count: How many predictions there are.
        mean_score: Their mean score; `None` without any.
        right: Share of them that are right; `None` without any.
    """

    low: float
    high: float
    count: int
    mean_score: float | None
    right: float | None


@dataclass(frozen=True)
class Diagnosis:
    """In what a model is wrong.

    Attributes:
        threshold: Score from which predictions count for the confusions.
        confusions: The cells of the confusion matrix that are not empty, the most frequent errors first.
        errors: Kinds of error; empty if the task knows none.
        precision: Mean over the classes of the interpolated precision at recall 0, .01, ..., 1; empty if the task has
            no recall.
        reliability: How often predictions of a score are right, in ten bins; empty for predictions without scores.
        calibration_error: Expected calibration error: how far scores are from the share that is right, on average.
    """

    threshold: float | None
    confusions: tuple[Confusion, ...]
    errors: tuple[ErrorKind, ...] = ()
    precision: tuple[float, ...] = ()
    reliability: tuple[ScoreBin, ...] = ()
    calibration_error: float | None = None
