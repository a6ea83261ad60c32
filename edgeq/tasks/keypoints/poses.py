"""`Poses`: the objects found in one image, with their keypoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Poses:
    """The objects found in one image.

    Attributes:
        scores: `(N,)` float32 in 0..1.
        classes: `(N,)` int64, indices into the model's labels.
        points: `(N, K, 3)` float32: x and y in the image's pixels, which may lie outside of it, and a score in 0..1.
    """

    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    points: NDArray[np.float32]
