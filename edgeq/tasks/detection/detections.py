"""`Detections`: what a detector found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Detections:
    """The objects found in one image.

    Attributes:
        boxes: `(N, 4)` float32: left, top, right, bottom in the image's pixels.
        scores: `(N,)` float32 in 0..1.
        classes: `(N,)` int64, indices into the model's labels.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)
