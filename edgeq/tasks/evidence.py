"""What a report can show of predictions besides numbers: a curve over thresholds, and images with boxes."""

from __future__ import annotations

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Finding:
    """One thing that a model says about an image, or that is true of it.

    Attributes:
        label: Class name.
        class_index: Index of the class, which decides its colour.
        score: Score, 0..1; `None` for an annotation, and where the model gives none.
        shared: Whether the other file sees it too; `None` where no other file was asked.
        mark: What is to be said of one that the other file does not see: `lost`, `won` or `false alarm`; `None` where
            the truth is not known.
    """

    label: str
    class_index: int = 0
    score: float | None = None
    shared: bool | None = field(default=None, metadata=OMIT_EMPTY, kw_only=True)
    mark: str | None = field(default=None, metadata=OMIT_EMPTY, kw_only=True)

    def describe(self) -> str:
        """Returns how a picture labels it: what became of it, its class, and its score if it has one."""
        mark = "" if self.mark is None else f"{self.mark}: "
        score = "" if self.score is None else f" {self.score:.2f}"
        return f"{mark}{self.label}{score}"


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


@dataclass(frozen=True)
class Example:
    """What two files see in one image.

    Attributes:
        image: File name.
        width_px: Width of the image.
        height_px: Height of the image.
        difference: Sum of the scores of boxes that only one file sees, and of the differences of those that both see.
        reference: Boxes of the reference.
        other: Boxes of the other file.
        truth: Annotated boxes.
    """

    image: str
    width_px: int
    height_px: int
    difference: float
    reference: tuple[Box, ...]
    other: tuple[Box, ...]
    truth: tuple[Box, ...]
