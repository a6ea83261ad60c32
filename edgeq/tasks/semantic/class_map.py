"""`ClassMap`: the class of every pixel of an image, as runs of equal classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = 255
"""What stands in a mask for pixels that do not count; PNG masks of Pascal VOC and Cityscapes have it."""

BACKGROUND = ("background", "__background__", "_background_")
"""What models and data sets call the class of everything else."""

MAX_CLASSES = IGNORED
"""Most classes of a model: their indices fit a byte next to `IGNORED`."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """The classes of an image's pixels, row by row, in runs: a thousandth of the memory of the pixels.

    Attributes:
        height_px: Rows of the image.
        width_px: Its columns.
        classes: `(R,)` uint8, class index of each run.
        lengths: `(R,)` int32, how many pixels it has; they add up to those of the image.
    """

    height_px: int
    width_px: int
    classes: NDArray[np.uint8]
    lengths: NDArray[np.int32]

    @classmethod
    def of(cls, pixels: NDArray[np.integer]) -> ClassMap:
        """Returns the runs of class indices `(H, W)`, each 0..255."""
        flat = pixels.astype(np.uint8, copy=False).ravel()
        starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
        lengths = np.diff(starts, append=flat.size).astype(np.int32)
        return cls(pixels.shape[0], pixels.shape[1], flat[starts], lengths)

    def pixels(self) -> NDArray[np.uint8]:
        """Returns the class of every pixel `(H, W)`."""
        return np.repeat(self.classes, self.lengths).reshape(self.height_px, self.width_px)
