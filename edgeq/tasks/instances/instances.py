"""`Instances`: the objects found in one image, with their masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.masks import RunLengths


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects found in one image.

    Attributes:
        size_px: Width and height of the image.
        scores: `(N,)` float32 in 0..1.
        classes: `(N,)` int64, indices into the model's labels.
        masks: A mask of the image for each.
    """

    size_px: tuple[int, int]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: RunLengths

    def part(self, keep: NDArray[np.bool_]) -> Instances:
        """Returns some of the objects `(N,)`."""
        if keep.all():
            return self
        runs = [runs for runs, kept in zip(self.masks.split(), keep.tolist(), strict=True) if kept]
        return Instances(self.size_px, self.scores[keep], self.classes[keep], RunLengths.of(runs))
