"""Positions of tokens: one number each, or time, row and column for Qwen2-VL (its section 2.1, arXiv:2409.12191)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgeq.bundles.manifest import Bundle
from edgeq.generation.decoder import Integers

GRID = "grid_thw"
"""Input of the vision part: frames, rows and columns of patches of each image."""


def positions_of(bundle: Bundle, ids: Integers, mask: Integers, images: Sequence[Mapping[str, np.ndarray]]) -> Integers:
    """Returns the position of each token, `(batch, seq)`, or `(3, batch, seq)` if the bundle's are multimodal.

    Args:
        bundle: The bundle.
        ids: Tokens, filled up on the left.
        mask: 1 for tokens and 0 for filling.
        images: Inputs of the vision part of each row.
    """
    if bundle.positions != "multimodal":
        return np.maximum(mask.cumsum(axis=1) - 1, 0)
    layout = None if bundle.images is None else bundle.images.patches
    merge = 1 if layout is None else layout.merge
    found = np.zeros((3, *ids.shape), np.int64)
    for row, (tokens, kept) in enumerate(zip(ids, mask, strict=True)):
        is_image = tokens[kept == 1] == bundle.tokens.image
        grids = [tuple(map(int, grid)) for grid in images[row].get(GRID, ())]
        found[:, row, kept == 1] = np.concatenate(list(_axes(is_image, grids, merge)), axis=1)
    return found


def _axes(is_image: np.ndarray, grids: Sequence[tuple[int, ...]], merge: int) -> Iterator[Integers]:
    """Yields time, row and column of runs of tokens `(3, run)`: text counts on, an image spans a block."""
    start, at, left = 0, 0, list(grids)
    while at < len(is_image):
        if is_image[at] and left:
            frames, rows, columns = left.pop(0)
            block = np.indices((frames, rows // merge, columns // merge)).reshape(3, -1)
            yield block + start
            start += int(block.max()) + 1
            at += block.shape[1]
        else:
            others = np.flatnonzero(is_image[at:])
            run = int(others[0]) if len(others) and left else len(is_image) - at
            yield np.arange(start, start + run)[None].repeat(3, axis=0)
            start, at = start + run, at + run
