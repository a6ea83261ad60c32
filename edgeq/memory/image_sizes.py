"""How models resize and cut images: sizes in, sizes out, as the published processors of each family do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeq.errors import InputError
from edgeq.memory.architecture import ImageSize

_MOST_UNEQUAL = 200


def best_grid(size: ImageSize, grids: Sequence[ImageSize]) -> ImageSize:
    """Returns the grid (height, width) that keeps most of an image's pixels, and of those the one that wastes least.

    Args:
        size: Height and width of the image.
        grids: What there is to choose from; at least one.
    """

    def kept(grid: ImageSize) -> tuple[int, int]:
        scale = min(grid[1] / size[1], grid[0] / size[0])
        pixels = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return pixels, pixels - grid[0] * grid[1]

    return max(grids, key=kept)


def unpadded(size: ImageSize, rows: int, columns: int) -> tuple[int, int]:
    """Returns how many rows and columns of a grid of tokens show the image, and not what fills up its sides."""
    height, width = size
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding


def smallest_canvas(size: ImageSize, tile: int, most_tiles: int) -> tuple[int, int]:
    """Returns rows and columns of the tiles that an image is laid on: those that enlarge it least, or shrink it least.

    Args:
        size: Height and width of the image.
        tile: Side of a tile in pixels.
        most_tiles: Most tiles.
    """
    canvases = [
        (rows, columns) for rows in range(1, most_tiles + 1) for columns in range(1, most_tiles + 1)
        if rows * columns <= most_tiles
    ]  # fmt: skip
    scales = {each: min(each[0] * tile / size[0], each[1] * tile / size[1]) for each in canvases}
    enlarging = [scale for scale in scales.values() if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales.values())
    return min((each for each in canvases if scales[each] == chosen), key=math.prod)


def in_whole_steps(size: ImageSize, step: int, least: int, most: int) -> ImageSize:
    """Returns an image's size rounded to a step, with its area between two limits and nearly its proportions.

    Args:
        size: Height and width.
        step: What both sides are multiples of.
        least: Least pixels.
        most: Most pixels.

    Raises:
        InputError: one side is over 200 times the other.
    """
    height, width = size
    if max(size) > _MOST_UNEQUAL * min(size):
        raise InputError(f"`image` {height}x{width}: one side is over {_MOST_UNEQUAL} times the other; wanted less")
    rounded = round(height / step) * step, round(width / step) * step
    if math.prod(rounded) > most:
        factor = math.sqrt(height * width / most)
        return max(step, int(height / factor / step) * step), max(step, int(width / factor / step) * step)
    if math.prod(rounded) < least:
        factor = math.sqrt(least / (height * width))
        return math.ceil(height * factor / step) * step, math.ceil(width * factor / step) * step
    return rounded


def tiles_of_longest_edge(size: ImageSize, longest: int, tile: int) -> tuple[int, int]:
    """Returns rows and columns of the tiles that cover an image whose longer side was resized.

    Args:
        size: Height and width of the image.
        longest: Pixels of the longer side.
        tile: Side of a tile in pixels.
    """
    height, width = size
    ratio = width / height
    if width >= height:
        shorter = int(longest / ratio)
        ratio = longest / (shorter + shorter % 2 or 1)
        columns = math.ceil(longest / tile)
        return math.ceil(max(1, int(columns * tile / ratio)) / tile), columns
    shorter = int(longest * ratio)
    ratio = (shorter + shorter % 2 or 1) / longest
    rows = math.ceil(longest / tile)
    return rows, math.ceil(max(1, int(rows * tile * ratio)) / tile)
