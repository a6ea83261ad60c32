"""Findings that have a shape: outlines, keypoints, masks, and the areas of classes; as JSON for other programs, too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.run_lengths import decompress
from edgeq.tasks.evidence import Box, Finding, require
from edgeq.tasks.masks import compress, decode, encode

# Of an image: a third more than Pillow decodes.
_MAX_PIXELS = 1 << 27


@dataclass(frozen=True)
class PixelSet:
    """Pixels of an image, in COCO's compressed RLE: `vars` of it is what pycocotools takes.

    Attributes:
        size: Height and width of the image.
        counts: pycocotools' text for the lengths of the runs.
    """

    size: tuple[int, int]
    counts: str

    def __post_init__(self) -> None:
        height, width = self.size
        runs = decompress(self.counts.encode("ascii", "replace"))
        fills = 0 < height * width <= _MAX_PIXELS and runs.min(initial=0) >= 0 and runs.sum() == height * width
        require(bool(min(height, width) > 0 and fills), "runs that do not fill their image")

    @classmethod
    def of(cls, pixels: NDArray[np.bool_]) -> PixelSet:
        """Returns the set of the true pixels `(H, W)`."""
        height, width = pixels.shape
        return cls((height, width), compress(encode(pixels, 0, 0, width, height), width, height))

    def pixels(self) -> NDArray[np.bool_]:
        """Returns whether each pixel is in it `(H, W)`."""
        return decode(self.rle())

    def rle(self) -> dict[str, object]:
        """Returns it as pycocotools' functions take it."""
        return {"size": list(self.size), "counts": self.counts.encode()}


@dataclass(frozen=True, kw_only=True)
class Outline(Finding):
    """A polygon in an image's pixels: an oriented box, or a piece of text.

    Attributes:
        corners: x and y of each corner, in order.
        text: What it says, if it is text and that is known.
    """

    corners: tuple[tuple[float, float], ...]
    text: str = ""

    def __post_init__(self) -> None:
        require(len(self.corners) > 2, "fewer than three corners")

    @property
    def title(self) -> str:
        """The text if there is some, otherwise the class."""
        return self.text or self.label


@dataclass(frozen=True, kw_only=True)
class Pose(Finding):
    """An object with keypoints.

    Attributes:
        points: x, y in the image's pixels and score 0..1 of each keypoint; of the truth the score is 0 for one that is
            not annotated, and 1 otherwise.
    """

    points: tuple[tuple[float, float, float], ...]

    def __post_init__(self) -> None:
        require(len(self.points) > 0, "no keypoint")


@dataclass(frozen=True, kw_only=True)
class Mask(Box):
    """An object with its pixels, and the box around them.

    Attributes:
        segmentation: The pixels.
    """

    segmentation: PixelSet


@dataclass(frozen=True, kw_only=True)
class ClassArea(Finding):
    """All pixels of one class in an image.

    Attributes:
        share: How much of the image they are, 0..1.
        segmentation: The pixels.
    """

    share: float
    segmentation: PixelSet

    @property
    def title(self) -> str:
        """The class and its share of the image."""
        return f"{self.label} {self.share:.1%}"


@dataclass(frozen=True, kw_only=True)
class DepthBand(ClassArea):
    """The pixels between two depths; `class_index` counts from the nearest band.

    Attributes:
        bands: How many bands there are.
    """

    bands: int

    @property
    def title(self) -> str:
        """The depths; the share says nothing, because bands have about as many pixels each."""
        return self.label
