"""`TextRegions`: where an image shows text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TextRegions:
    """The pieces of text found in one image.

    Attributes:
        corners: `(N, 4, 2)` float32: the corners of a rectangle in any direction, in the image's pixels.
        scores: `(N,)` float32 in 0..1.
    """

    corners: NDArray[np.float32]
    scores: NDArray[np.float32]
