"""Images as vision parts take them that cut images: patches of Qwen2-VL, tiles of SmolVLM, grids of LLaVA-NeXT.

Sizes and roundings are those of transformers' image processors with Pillow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeq.bundles.contents import GridLayout, ImageInput, PatchLayout, Resample, TileLayout
from edgeq.memory.image_sizes import best_grid, in_whole_steps, unpadded

Pixels = NDArray[np.uint8]

_LONGEST = 4096
"""No image of SmolVLM or Idefics3 is larger."""

NEW_LINE = -1
"""In the rows of LLaVA-NeXT: the token that ends a row."""


class Tiles(NamedTuple):
    """Tiles of an image.

    Attributes:
        pixels: `(tiles, 3, height, width)`, float32; the whole image is the last one.
        rows: Rows of tiles; 0 if the image was not cut.
        columns: Their columns.
    """

    pixels: NDArray[np.float32]
    rows: int
    columns: int


def as_patches(pixels: Pixels, images: ImageInput, layout: PatchLayout) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Returns patches `(patches, values)`, neighbours that become one token together, and their rows and columns."""
    step = layout.patch_px * layout.merge
    height, width = in_whole_steps(pixels.shape[:2], step, layout.min_pixels, layout.max_pixels)
    image = _values(_resized(pixels, height, width, images.resample), images)
    rows, columns = height // layout.patch_px, width // layout.patch_px
    sides = (layout.merge, layout.patch_px)
    blocks = image.reshape(3, rows // layout.merge, *sides, columns // layout.merge, *sides)
    # Block row, block column, row and column in the block, channel, frame, pixels.
    blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None].repeat(layout.frames, axis=5)
    return np.ascontiguousarray(blocks.reshape(rows * columns, -1)), (rows, columns)


def as_tiles(pixels: Pixels, images: ImageInput, layout: TileLayout) -> Tiles:
    """Returns the tiles of SmolVLM and Idefics3."""
    side = layout.tile_px
    pixels = _resized(pixels, *_longer_side(pixels.shape[0], pixels.shape[1], layout.longest_px), images.resample)
    if not layout.cut:
        return Tiles(_values(_resized(pixels, side, side, images.resample), images)[None], 0, 0)
    pixels = _resized(pixels, *_whole_tiles(pixels.shape[0], pixels.shape[1], side), images.resample)
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    if rows == columns == 1:
        return Tiles(_values(pixels, images)[None], 0, 0)
    tiles = [*_cut(pixels, side), _resized(pixels, side, side, images.resample)]
    return Tiles(np.stack([_values(tile, images) for tile in tiles]), rows, columns)


def as_grid(pixels: Pixels, images: ImageInput, layout: GridLayout) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns tiles `(tiles, 3, side, side)`, the whole first, and which of their tokens a decoder reads, in order.

    The latter are rows of all tiles' tokens, one tile below the other, and `NEW_LINE`.
    """
    size, side, tokens = (pixels.shape[0], pixels.shape[1]), layout.tile_px, layout.tokens
    grid = best_grid(size, layout.grids)
    inner = _within(size, grid)
    top, left = (grid[0] - inner[0]) // 2, (grid[1] - inner[1]) // 2
    filled = np.zeros((*grid, 3), np.uint8)
    filled[top : top + inner[0], left : left + inner[1]] = _resized(pixels, *inner, images.resample)
    tiles = [_resized(pixels, side, side, images.resample), *_cut(filled, side)]
    rows, columns = grid[0] // side, grid[1] // side
    number = np.arange(rows * columns * tokens**2).reshape(rows, columns, tokens, tokens) + tokens**2
    table = number.transpose(0, 2, 1, 3).reshape(rows * tokens, columns * tokens)
    kept = unpadded(size, *table.shape)
    above, before = (table.shape[0] - kept[0]) // 2, (table.shape[1] - kept[1]) // 2
    shown = table[above : above + kept[0], before : before + kept[1]]
    table = np.pad(shown, ((0, 0), (0, 1)), constant_values=NEW_LINE)
    taken = np.concatenate([np.arange(tokens**2), table.reshape(-1)])
    return np.stack([_values(tile, images) for tile in tiles]), taken.astype(np.int64)


def _values(pixels: Pixels, images: ImageInput) -> NDArray[np.float32]:
    """Returns an image `(3, height, width)` as the model wants its values."""
    scaled = pixels.astype(np.float32) * np.float32(images.scale)
    normal = (scaled - np.array(images.mean, np.float32)) / np.array(images.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)


def _resized(pixels: Pixels, height: int, width: int, resample: Resample) -> Pixels:
    from PIL import Image

    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[resample.upper()]))


def _cut(pixels: Pixels, side: int) -> list[Pixels]:
    """Returns the tiles of an image whose sides are whole numbers of tiles, row by row."""
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    blocks = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    return list(blocks.reshape(rows * columns, side, side, 3))


def _longer_side(height: int, width: int, longest: int) -> tuple[int, int]:
    """Returns a size with a given longer side; the shorter one becomes even."""
    ratio = width / height
    if width >= height:
        found = int(longest / ratio), longest
        size = max(found[0] + found[0] % 2, 1), longest
    else:
        found = longest, int(longest * ratio)
        size = longest, max(found[1] + found[1] % 2, 1)
    if max(size) <= _LONGEST:
        return size
    ratio = size[1] / size[0]
    return (max(int(_LONGEST / ratio), 1), _LONGEST) if ratio >= 1 else (_LONGEST, max(int(_LONGEST * ratio), 1))


def _whole_tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """Returns a size of whole tiles that an image grows to, the longer side first."""
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        return math.ceil(int(width / ratio) / side) * side, width
    height = math.ceil(height / side) * side
    return height, math.ceil(int(height * ratio) / side) * side


def _within(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Returns the largest size of an image's proportions within a grid."""
    by_height, by_width = grid[0] / size[0], grid[1] / size[1]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), grid[0]), grid[1]
    return grid[0], min(math.ceil(size[1] * by_height), grid[1])
