"""Several pictures of one image side by side, each under a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.tasks.drawing.canvas import fit, load_font, text_extent
from edgeq.tasks.drawing.palette import ink_on

if TYPE_CHECKING:
    from PIL.Image import Image

_GROUND = (32, 32, 32)


def side_by_side(panels: Sequence[tuple[str, Image]], font_px: int) -> Image:
    """Returns one picture, RGB: the panels from left to right, each under its caption.

    Args:
        panels: Caption and picture of each; all pictures are of one size.
        font_px: Height of the captions.
    """
    from PIL import Image, ImageDraw

    font = load_font(font_px)
    letters, text_height = text_extent(font)
    gap = max(2, font_px // 4)
    bar = text_height + 2 * gap
    width, height = panels[0][1].size
    whole = Image.new("RGB", (len(panels) * (width + gap) - gap, bar + height), _GROUND)
    draw = ImageDraw.Draw(whole)
    for number, (caption, picture) in enumerate(panels):
        left = number * (width + gap)
        whole.paste(picture, (left, bar))
        text = fit(caption, font, width - 2 * gap)
        draw.text((left + gap, gap - letters), text, fill=ink_on(_GROUND), font=font)
    return whole
