"""Pictures of invented surnames: five fonts, slanted, on noisy ground, crossed by lines; each follows from its number.

Fonts are those that matplotlib ships. A picture is a strip of 20 x 125 grey pixels. CLIP's tower reads squares, so the
strip's 25 columns of 5 pixels become the 25 patches of a square: `fold` lays the upper half of a column to the left
of its lower half.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHORTEST, LONGEST = 4, 8
COLUMN = 5
"""Pixels that a column is wide; it is four times as high."""
SIDE = 5
"""Patches along each side of the square that a strip becomes."""
COLUMNS = SIDE**2
HEIGHT, WIDTH, PATCH = 4 * COLUMN, COLUMNS * COLUMN, 2 * COLUMN

_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic")
_SIZES = (12, 16)
_VOWELS, _CONSONANTS = "AEIOU", "BCDFGHJKLMNPQRSTVWXYZ"
_VOWEL_FIRST, _VOWEL_AFTER_VOWEL, _VOWEL_AFTER_CONSONANT = 0.25, 0.15, 0.75
_SLANT = 0.2
_MARGIN = 2


class Pictures(NamedTuple):
    """Strips with what they show.

    Attributes:
        strips: `(N, HEIGHT, WIDTH)` uint8; dark letters on light ground.
        names: The surnames.
        letters: Of each column the letter in its middle, `(N, COLUMNS)`: 1 for A to 26, 0 for none.
        ranks: Of each column the position of that letter in its name, from 1; 0 for none.
    """

    strips: npt.NDArray[np.uint8]
    names: list[str]
    letters: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]


def draw_pictures(seed: int, count: int, first: int = 0) -> Pictures:
    """Returns so many of a seed's pictures from number `first` on; the same numbers are the same pictures."""
    drawn = [_draw(np.random.default_rng((seed, number))) for number in range(first, first + count)]
    strips, names, letters, ranks = zip(*drawn, strict=True)
    return Pictures(np.stack(strips), list(names), np.stack(letters), np.stack(ranks))


def fold(strips: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns what the tower reads, `(N, 3, 50, 50)` from -1 to 1, three equal channels: a patch for each column."""
    halves = strips.reshape(-1, 2, HEIGHT // 2, SIDE, SIDE, COLUMN)
    # Axes: half, row in it, row of patches, patch in that, column's pixel -> rows, then columns, of the square.
    square = halves.transpose(0, 3, 2, 4, 1, 5).reshape(-1, 1, SIDE * PATCH, SIDE * PATCH)
    return np.repeat(square.astype(np.float32) / 127.5 - 1, 3, axis=1)


def _surname(rng: np.random.Generator) -> str:
    name, vowel = "", rng.random() < _VOWEL_FIRST
    for _ in range(rng.integers(SHORTEST, LONGEST + 1)):
        kind = _VOWELS if vowel else _CONSONANTS
        name += kind[rng.integers(len(kind))]
        vowel = rng.random() < (_VOWEL_AFTER_VOWEL if vowel else _VOWEL_AFTER_CONSONANT)
    return name


@functools.cache
def _font(name: str, size: int) -> FreeTypeFont:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


@functools.cache
def _advance(family: str, size: int, letter: str) -> float:
    return float(_font(family, size).getlength(letter))


def _typeset(rng: np.random.Generator, name: str) -> tuple[FreeTypeFont, np.ndarray]:
    """Returns a random font, smaller than drawn if the name would not fit, and the edges between letters in pixels."""
    family, size = _FONTS[rng.integers(len(_FONTS))], int(rng.integers(_SIZES[0], _SIZES[1] + 1))
    while True:
        # Kerning is left out: it moves letters by less than a pixel.
        edges = np.cumsum([0.0, *(_advance(family, size, letter) for letter in name)])
        if edges[-1] <= WIDTH - 2 * _MARGIN:
            return _font(family, size), edges
        size -= 1


def _draw(rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], str, np.ndarray, np.ndarray]:
    """Returns strip, name, letters and ranks of one picture."""
    from PIL import Image, ImageDraw

    name = _surname(rng)
    font, edges = _typeset(rng, name)
    left = rng.uniform(_MARGIN, WIDTH - _MARGIN - edges[-1])
    ink = Image.new("L", (WIDTH, HEIGHT))
    middle = HEIGHT / 2 + rng.uniform(-2, 2)
    ImageDraw.Draw(ink).text((left, middle), name, fill=255, font=font, anchor="lm")
    # About the middle row, so that letters stay in their columns.
    slant = rng.uniform(-_SLANT, _SLANT)
    affine = (1, slant, -slant * HEIGHT / 2, 0, 1, 0)
    ink = ink.transform((WIDTH, HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    grey = _soiled(rng, np.maximum(np.asarray(ink), _clutter(rng)))
    ranks = np.searchsorted(left + edges, (np.arange(COLUMNS) + 0.5) * COLUMN, side="right")
    ranks[ranks > len(name)] = 0
    letters = np.array([0, *(LETTERS.index(letter) + 1 for letter in name)])[ranks]
    return grey, name, letters, ranks


def _clutter(rng: np.random.Generator) -> np.ndarray:
    """Returns the ink of dots, and of a line in every second picture."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (WIDTH, HEIGHT))
    brush = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 2)):
        ends = rng.uniform(0, 1, 4) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
        brush.line(list(ends), fill=int(rng.integers(60, 161)))
    for _ in range(rng.integers(0, 9)):
        dot = rng.uniform(0, 1, 2) * (WIDTH, HEIGHT)
        brush.point(list(dot), fill=int(rng.integers(80, 256)))
    return np.asarray(image)


def _soiled(rng: np.random.Generator, ink: np.ndarray) -> npt.NDArray[np.uint8]:
    """Returns the strip of some ink (0 to 255) on unevenly lit, noisy ground."""
    ground, strength = rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.9)
    light = np.linspace(-0.5, 0.5, WIDTH) * rng.uniform(-0.2, 0.2)
    noise = rng.normal(0, rng.uniform(0.02, 0.09), ink.shape)
    grey = ground + light - ink / 255 * strength * ground + noise
    return np.asarray(np.rint(grey.clip(0, 1) * 255), np.uint8)
