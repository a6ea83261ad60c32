"""`Canvas`: marks over an image, with line widths and text that suit its size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.drawing.palette import BLACK, WHITE, Colour, Style, ink_on
from edgeq.tasks.drawing.plates import Rectangle, place

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

Weight = Literal["thin", "normal", "thick"]
"""Of a line: thin for what two files agree on, thick for what only one of them sees."""

Point = tuple[float, float]

# An image whose longer side is below this is enlarged, so that text fits.
_MIN_SIDE_PX = 320
_MIN_FONT_PX = 12
# Of the geometric mean of both sides: 13 pixels of text on 640x480, 50 on 12 megapixels.
_FONT_SHARE = 0.024
_WEIGHTS: dict[Weight, float] = {"thin": 0.5, "normal": 1.0, "thick": 1.7}
# Under every line, so that it shows on ground of its own colour.
_HALO = (*BLACK, 150)
_ELLIPSIS = "..."


@dataclass(frozen=True)
class _Line:
    """A closed line through points, in pixels of the canvas."""

    points: tuple[Point, ...]
    style: Style
    width_px: float


@dataclass(frozen=True)
class _Label:
    """A text that belongs to a rectangle of the canvas."""

    text: str
    at: Rectangle
    style: Style


class Canvas:
    """Marks over an image; coordinates are the image's pixels, (0, 0) is its upper left corner.

    Marks of more weight are drawn over those of less, and of equal ones the first over the later ones. Labels lie on
    top, apart from each other if there is room.

    Args:
        width_px: Width of the image.
        height_px: Height of the image.
        scale: Pixels of the picture per pixel of the image; by default 1, or for a small image the least whole number
            that leaves room for text.

    Attributes:
        width_px: Width of the picture.
        height_px: Height of the picture.
        font_px: Height of its text.
        line_px: Width of a line of normal weight.
    """

    def __init__(self, width_px: int, height_px: int, scale: float | None = None) -> None:
        self._scale = scale or max(1, math.ceil(_MIN_SIDE_PX / max(width_px, height_px)))
        self.width_px = max(1, round(width_px * self._scale))
        self.height_px = max(1, round(height_px * self._scale))
        self.font_px = max(_MIN_FONT_PX, round(_FONT_SHARE * math.sqrt(self.width_px * self.height_px)))
        self.line_px = max(2, round(self.font_px / 6))
        self._lines: list[_Line] = []
        self._labels: list[_Label] = []
        self._notes: list[str] = []

    def box(
        self, left: float, top: float, width: float, height: float, style: Style, label: str = "",
        weight: Weight = "normal",
    ) -> None:  # fmt: skip
        """Draws a box; its lines stay inside the image."""
        line_px = self._line_width(weight)
        x_ends, y_ends = (
            [min(max(each * self._scale, line_px / 2), size - 1 - line_px / 2) for each in ends]
            for ends, size in (((left, left + width), self.width_px), ((top, top + height), self.height_px))
        )
        corners = ((x_ends[0], y_ends[0]), (x_ends[1], y_ends[0]), (x_ends[1], y_ends[1]), (x_ends[0], y_ends[1]))
        self._lines.append(_Line(corners, style, line_px))
        if label:
            self._labels.append(_Label(label, Rectangle(*corners[0], *corners[2]), style))

    def note(self, text: str) -> None:
        """Writes a line of text into the upper left corner, below earlier ones."""
        self._notes.append(text)

    def overlay(self) -> Image:
        """Returns the marks on transparent ground, RGBA, `width_px` by `height_px`."""
        from PIL import Image, ImageDraw

        layer = Image.new("RGBA", (self.width_px, self.height_px), (0, 0, 0, 0))
        draw = ImageDraw.Draw(layer)
        lines = list(reversed(self._lines))
        lines.sort(key=lambda line: line.width_px)
        for line in lines:
            _stroke(draw, line, _HALO, line.width_px + 2)
        for line in lines:
            _stroke(draw, line, (*line.style.colour, 255), line.width_px)
        self._draw_labels(draw)
        return layer

    def over(self, image: NDArray[np.uint8]) -> Image:
        """Returns the picture, RGB, `width_px` by `height_px`: an image `(H, W, 3)` with the marks over it."""
        from PIL import Image

        picture = Image.fromarray(image)
        if picture.size != (self.width_px, self.height_px):
            picture = picture.resize((self.width_px, self.height_px), Image.Resampling.BICUBIC)
        picture = picture.convert("RGBA")
        picture.alpha_composite(self.overlay())
        return picture.convert("RGB")

    def _line_width(self, weight: Weight) -> float:
        return max(1, round(_WEIGHTS[weight] * self.line_px))

    def _draw_labels(self, draw: ImageDraw) -> None:
        font = load_font(self.font_px)
        pad = max(2, self.font_px // 5)
        height = text_extent(font)[1] + 2 * (pad // 2) + 1
        picture = (self.width_px, self.height_px)
        taken: list[Rectangle] = []
        for row, note in enumerate(self._notes):
            text = fit(note, font, self.width_px - 2 * pad)
            plate = Rectangle(0, row * height, font.getlength(text) + 2 * pad, (row + 1) * height)
            _draw_plate(draw, plate, text, WHITE, font)
            taken.append(plate)
        for label in self._labels:
            text = fit(label.text, font, self.width_px - 2 * pad)
            plate = place((font.getlength(text) + 2 * pad, height), label.at, taken, picture)
            _draw_plate(draw, plate, text, label.style.colour, font)
            taken.append(plate)


def load_font(size_px: int) -> Font:
    """Returns Pillow's own font, so that pictures are the same on every machine; it holds Latin letters."""
    from PIL import ImageFont

    return ImageFont.load_default(size_px)


def text_extent(font: Font) -> tuple[int, int]:
    """Returns where the tallest letters begin below the point that text is drawn at, and their height, in pixels."""
    _, top, _, bottom = font.getbbox("Agjpqy|")
    return math.floor(top), math.ceil(bottom) - math.floor(top)


def fit(text: str, font: Font, width_px: float) -> str:
    """Returns the text, cut where it would be wider."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + _ELLIPSIS) > width_px:
        text = text[:-1]
    return text + _ELLIPSIS


def _draw_plate(draw: ImageDraw, plate: Rectangle, text: str, ground: Colour, font: Font) -> None:
    left, top, right, bottom = (round(each) for each in plate)
    draw.rectangle((left, top, right - 1, bottom - 1), fill=(*ground, 255))
    letters, height = text_extent(font)
    across = (right - left - font.getlength(text)) / 2
    down = (bottom - top - height) // 2
    draw.text((left + across, top + down - letters), text, fill=(*ink_on(ground), 255), font=font)


def _stroke(draw: ImageDraw, line: _Line, colour: tuple[int, int, int, int], width_px: float) -> None:
    """Draws a closed line, dashed if its style is; a halo has the dashes of its line."""
    points = [*line.points, line.points[0]]
    width = max(1, round(width_px))
    if not line.style.dashes:
        # Past the first corner once more, so that this one is joined, too.
        draw.line([*points, points[1]], fill=colour, width=width, joint="curve")
        return
    lengths = [max(2.0, length * line.width_px) for length in line.style.dashes]
    for start, end in itertools.pairwise(points):
        for dash in _dashes(start, end, lengths):
            draw.line(dash, fill=colour, width=width)


def _dashes(start: Point, end: Point, lengths: Sequence[float]) -> list[list[Point]]:
    """Returns the parts of a straight line that are drawn; each side begins anew, so that corners are closed."""
    whole = math.dist(start, end)
    parts: list[list[Point]] = []
    position, number = 0.0, 0
    while position < whole:
        until = min(position + lengths[number % len(lengths)], whole)
        if number % 2 == 0:
            parts.append([_between(start, end, position / whole), _between(start, end, until / whole)])
        position, number = until, number + 1
    return parts


def _between(start: Point, end: Point, share: float) -> Point:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])
