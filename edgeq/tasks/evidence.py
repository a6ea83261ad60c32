"""What a report can show of predictions besides numbers: a curve over thresholds, and images with boxes."""

from __future__ import annotations

from dataclasses import dataclass


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
class Box:
    """A box in an image's pixels.

    Attributes:
        left: Left edge.
        top: Upper edge.
        width: Width.
        height: Height.
        label: Class name.
        score: Score, 0..1; `None` for an annotation.
        shared: Whether the other file sees it too.
    """

    left: float
    top: float
    width: float
    height: float
    label: str
    score: float | None = None
    shared: bool = True


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
