"""`Canvas`: marks over an image, with line widths and text that suit its size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.drawing.fills import Fill, lay_fill
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
# Of the extent of keypoints: discs of small objects would hide them.
_JOINT_SHARE = 0.025
# How far outside of the picture, in its sides, a line may lead.
_MARGIN = 2
# Of a fill, by the weight of its line.
_OPACITY: dict[Weight, float] = {"thin": 0.2, "normal": 0.4, "thick": 0.6}
# Under every line, so that it shows on ground of its own colour.
_HALO = (*BLACK, 150)
_ELLIPSIS = "..."


@dataclass(frozen=True)
class _Line:
    """A line through points, in pixels of the canvas."""

    points: tuple[Point, ...]
    style: Style
    width_px: float
    is_closed: bool = True


@dataclass(frozen=True)
class _Dot:
    """A disc, in pixels of the canvas."""

    centre: Point
    style: Style
    radius_px: float


@dataclass(frozen=True)
class _Note:
    """A line of text in the corner."""

    text: str
    ground: Colour


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
        self._fills: list[Fill] = []
        self._lines: list[_Line] = []
        self._dots: list[_Dot] = []
        self._labels: list[_Label] = []
        self._notes: list[_Note] = []

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

    def polygon(
        self, points: Sequence[Point], style: Style, label: str = "", weight: Weight = "normal"
    ) -> None:  # fmt: skip
        """Draws a closed line through points, which may lie outside of the image."""
        placed = [self._placed(point) for point in points]
        self._lines.append(_Line(tuple(placed), style, self._line_width(weight)))
        self._name(label, placed, style)

    def keypoints(
        self,
        points: Sequence[Point],
        links: Sequence[tuple[Point, Point]],
        style: Style,
        label: str = "",
        weight: Weight = "normal",
    ) -> None:
        """Draws a disc at each point, and a line along each link; points may lie outside of the image."""
        placed = [self._placed(point) for point in points]
        extent = math.hypot(*np.ptp(placed, axis=0)) if placed else 0.0
        line_px = min(self._line_width(weight), max(1.0, _JOINT_SHARE * extent))
        for start, end in links:
            ends = (self._placed(start), self._placed(end))
            self._lines.append(_Line(ends, Style(style.colour), line_px, is_closed=False))
        radius = 1.2 * line_px
        self._dots += [_Dot(point, style, radius) for point in placed]
        corners = [(x + way * (radius + 1), y + way * (radius + 1)) for x, y in placed for way in (-1, 1)]
        self._name(label, corners, style)

    def fill(
        self,
        pixels: NDArray[np.bool_],
        style: Style,
        weight: Weight = "normal",
        *,
        opacity: float | None = None,
        label: str = "",
        at: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Fills pixels of the image `(H, W)`, with a line along their border.

        Args:
            pixels: Which pixels.
            style: Colour and stripes.
            weight: Of the line; the heavier it is, the less shows through.
            opacity: Of the fill, 0..1, without a line.
            label: Text next to `at`.
            at: Left, top, width and height of what the label names.
        """
        if pixels.shape != (self.height_px, self.width_px):
            rows = np.arange(self.height_px) * pixels.shape[0] // self.height_px
            columns = np.arange(self.width_px) * pixels.shape[1] // self.width_px
            pixels = pixels[rows[:, None], columns]
        line_px = 0 if opacity is not None else round(self._line_width(weight))
        self._fills.append(Fill(pixels, style, _OPACITY[weight] if opacity is None else opacity, line_px))
        if at is not None:
            left, top, width, height = at
            self._name(label, [self._placed((left, top)), self._placed((left + width, top + height))], style)

    def note(self, text: str, ground: Colour = WHITE) -> None:
        """Writes a line of text into the upper left corner, below earlier ones."""
        self._notes.append(_Note(text, ground))

    def overlay(self) -> Image:
        """Returns the marks on transparent ground, RGBA, `width_px` by `height_px`."""
        from PIL import Image, ImageDraw

        layer = Image.new("RGBA", (self.width_px, self.height_px), (0, 0, 0, 0))
        draw = ImageDraw.Draw(layer)
        fills, lines, dots = self._fills[::-1], self._lines[::-1], self._dots[::-1]
        for fill in sorted(fills, key=lambda fill: fill.line_px):
            lay_fill(layer, fill)
        lines.sort(key=lambda line: line.width_px)
        for line in lines:
            _stroke(draw, line, _HALO, line.width_px + 2)
        for line in lines:
            _stroke(draw, line, (*line.style.colour, 255), line.width_px)
        dots.sort(key=lambda dot: dot.radius_px)
        for dot in dots:
            _disc(draw, dot, (*BLACK, 255), dot.radius_px + 1)
        for dot in dots:
            _disc(draw, dot, (*dot.style.colour, 255), dot.radius_px)
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

    def _fitting_notes(self, height: int) -> list[_Note]:
        """Returns the notes that fit below each other, each of a height; the last one says how many do not."""
        rows = max(self.height_px // height, 1)
        if len(self._notes) <= rows:
            return self._notes
        shown = self._notes[: rows - 1]
        return [*shown, _Note(f"and {len(self._notes) - len(shown)} more", WHITE)]

    def _placed(self, point: Point) -> Point:
        """Returns a point of the image in pixels of the canvas; one that is far outside is moved to a margin."""
        x, y = (
            min(max(value * self._scale, -_MARGIN * size), (1 + _MARGIN) * size)
            for value, size in zip(point, (self.width_px, self.height_px), strict=True)
        )
        return x, y

    def _name(self, label: str, points: Sequence[Point], style: Style) -> None:
        """Notes a label for what lies around points of the canvas."""
        if label and points:
            xs, ys = zip(*points, strict=True)
            ends = (
                min(max(value, 0.0), size - 1.0)
                for value, size in zip(
                    (min(xs), min(ys), max(xs), max(ys)), (self.width_px, self.height_px) * 2, strict=True
                )
            )
            self._labels.append(_Label(label, Rectangle(*ends), style))

    def _line_width(self, weight: Weight) -> float:
        return max(1, round(_WEIGHTS[weight] * self.line_px))

    def _draw_labels(self, draw: ImageDraw) -> None:
        font = load_font(self.font_px)
        pad = max(2, self.font_px // 5)
        height = text_extent(font)[1] + 2 * (pad // 2) + 1
        picture = (self.width_px, self.height_px)
        taken: list[Rectangle] = []
        for row, note in enumerate(self._fitting_notes(height)):
            text = fit(note.text, font, self.width_px - 2 * pad)
            plate = Rectangle(0, row * height, font.getlength(text) + 2 * pad, (row + 1) * height)
            _draw_plate(draw, plate, text, note.ground, font)
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
    """Draws a line, dashed if its style is; a halo has the dashes of its line."""
    points = [*line.points, line.points[0]] if line.is_closed else [*line.points]
    width = max(1, round(width_px))
    if not line.style.dashes:
        # Past the first corner once more, so that this one is joined, too.
        points += points[1:2] if line.is_closed else []
        draw.line(points, fill=colour, width=width, joint="curve")
        return
    lengths = [max(2.0, length * line.width_px) for length in line.style.dashes]
    for start, end in itertools.pairwise(points):
        for dash in _dashes(start, end, lengths):
            draw.line(dash, fill=colour, width=width)


def _disc(draw: ImageDraw, dot: _Dot, colour: tuple[int, int, int, int], radius_px: float) -> None:
    x, y = dot.centre
    draw.ellipse((x - radius_px, y - radius_px, x + radius_px, y + radius_px), fill=colour)


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
