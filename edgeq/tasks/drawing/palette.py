"""Colours that people with any colour vision tell apart, and the contrast of text on them.

The seven colours are those of Okabe and Ito, "Color Universal Design" (2002, revised 2008), without black. More classes
than colours share a colour and differ in the dashes of their lines; their labels always name them.
"""

from __future__ import annotations

from typing import NamedTuple

Colour = tuple[int, int, int]
"""Red, green and blue, 0..255 (sRGB)."""

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermillion
    (204, 121, 167),  # reddish purple
)

_SOLID: tuple[float, ...] = ()
_DASHES = (_SOLID, (4.0, 2.0), (1.5, 1.5), (6.0, 2.0, 1.5, 2.0))


# Directions of the stripes of a fill, by the turn through the colours: none, and three of them.
_STRIPES = ((0, 0), (1, 1), (1, -1), (0, 1))

# Blue to yellow, ever lighter: cividis ("Optimizing colormaps with consideration for color vision deficiency", Nunez et
# al., 2018) at its ends, its middle and its quarters.
_CIVIDIS: tuple[Colour, ...] = ((0, 34, 78), (67, 78, 108), (125, 124, 120), (188, 174, 108), (254, 232, 56))


class Style(NamedTuple):
    """How a line is drawn, and what it encloses.

    Attributes:
        colour: Its colour, and that of its label's plate.
        dashes: Lengths that are drawn and left out in turn, in widths of the line; empty for a solid line.
        stripes: Direction of the stripes of a fill, in columns and rows; (0, 0) for none.
    """

    colour: Colour
    dashes: tuple[float, ...] = _SOLID
    stripes: tuple[int, int] = (0, 0)


def class_style(index: int) -> Style:
    """Returns the style of a class by its index, the same in every picture; 28 classes differ."""
    turn, colour = divmod(index, len(OKABE_ITO))
    return Style(OKABE_ITO[colour], _DASHES[turn % len(_DASHES)], _STRIPES[turn % len(_STRIPES)])


def depth_style(band: int, bands: int) -> Style:
    """Returns the style of a band of depths: the nearest is light, the furthest dark."""
    place = (1 - band / max(bands - 1, 1)) * (len(_CIVIDIS) - 1)
    low = min(int(place), len(_CIVIDIS) - 2)
    red, green, blue = (
        round(first + (place - low) * (second - first))
        for first, second in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True)
    )
    return Style((red, green, blue))


def contrast(first: Colour, second: Colour) -> float:
    """Returns the contrast ratio of two colours, 1 to 21, by WCAG 2.2 (W3C, 2023)."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def ink_on(ground: Colour) -> Colour:
    """Returns black or white, whichever has more contrast; at least 4.58 on any colour."""
    return max(BLACK, WHITE, key=lambda ink: contrast(ink, ground))


def _luminance(colour: Colour) -> float:
    """Returns WCAG's relative luminance, 0..1."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
