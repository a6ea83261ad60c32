"""Positions of tokens in three directions, time, row and column, for Qwen2-VL ("Qwen2-VL", Wang et al., 2024).

A text continues in all three directions together. The tokens of an image share a time and have rows and columns from
there on; what follows begins behind the largest of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def image_positions(
    ids: Sequence[int], image_token: int | None, grids: NDArray[np.integer] | None, merge: int
) -> NDArray[np.int64]:
    """Returns time, row and column of each token of a prompt, `(3, tokens)`.

    Args:
        ids: The tokens.
        image_token: Stands for what an image gives.
        grids: Frames, rows and columns of patches of each image, `(images, 3)`.
        merge: Side, in patches, of what becomes one token.
    """
    found, at, start, tokens = [], 0, 0, list(ids)
    for frames, rows, columns in [] if grids is None else (grids // [1, merge, merge]).tolist():
        begin = tokens.index(image_token, at) if image_token in tokens[at:] else len(tokens)
        found.append(np.broadcast_to(start + np.arange(begin - at), (3, begin - at)))
        start += begin - at
        found.append(np.indices((frames, rows, columns)).reshape(3, -1) + start)
        at, start = begin + frames * rows * columns, start + max(frames, rows, columns)
    found.append(np.broadcast_to(start + np.arange(len(tokens) - at), (3, max(len(tokens) - at, 0))))
    return np.concatenate(found, axis=1).astype(np.int64)
