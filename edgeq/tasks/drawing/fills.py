"""Filled shapes: the pixels of an object, translucent, with a line along their border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.drawing.palette import BLACK, Style

if TYPE_CHECKING:
    from PIL.Image import Image

_HALO_ALPHA = 150
# The stripes of a fill, in widths of its line: a class whose colour is another's, too, is told apart by them.
_STRIPE = 3


@dataclass(frozen=True, eq=False)
class Fill:
    """Pixels of the canvas to be filled.

    Attributes:
        pixels: `(H, W)`, all of the canvas.
        style: Colour, and the direction of stripes.
        opacity: Of the fill, 0..1.
        line_px: Width of the line along the border; 0 for none.
    """

    pixels: NDArray[np.bool_]
    style: Style
    opacity: float
    line_px: int


def lay_fill(layer: Image, fill: Fill) -> None:
    """Lays a fill over what is drawn on a layer; its line lies inside of it."""
    from PIL import Image

    rows, columns = np.flatnonzero(fill.pixels.any(axis=1)), np.flatnonzero(fill.pixels.any(axis=0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    inside = fill.pixels[top : rows[-1] + 1, left : columns[-1] + 1]
    part = np.zeros((*inside.shape, 4), np.uint8)
    part[inside & _stripes(inside.shape, top, left, fill)] = (*fill.style.colour, round(255 * fill.opacity))
    if fill.line_px:
        line = inside & ~_shrunk(inside, fill.line_px)
        halo = inside & ~_shrunk(inside, fill.line_px + 1) & ~line
        part[halo] = (*BLACK, _HALO_ALPHA)
        part[line] = (*fill.style.colour, 255)
    layer.alpha_composite(Image.fromarray(part), (left, top))


def _stripes(shape: tuple[int, int], top: int, left: int, fill: Fill) -> NDArray[np.bool_]:
    """Returns which pixels of a part that begins at `top`, `left` have the fill; all for a class without stripes."""
    across, down = fill.style.stripes
    rows, columns = np.ogrid[top : top + shape[0], left : left + shape[1]]
    period = _STRIPE * max(1, fill.line_px)
    stripes: NDArray[np.bool_] = (across * columns + down * rows) // period % 2 == 0
    return stripes | np.zeros(shape, bool)


def _shrunk(pixels: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Returns the pixels that are further than `by` from the border, straight up, down and sideways."""
    padded = np.pad(pixels, 1)
    for _ in range(by):
        inner = padded[1:-1, 1:-1]
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        padded = np.pad(inner, 1)
    return padded[1:-1, 1:-1]
