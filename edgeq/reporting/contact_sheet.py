"""A contact sheet: many images of a data set on one page, with the boxes that are said to be on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.datasets.split import AnnotatedImage, Split
from edgeq.errors import InputError
from edgeq.files import atomic_path
from edgeq.inputs.items import evenly_spaced

if TYPE_CHECKING:
    from PIL import Image

TILES = 48
_COLUMNS = 8
_TILE_PX = 192
_CAPTION_PX = 14
_GAP_PX = 4
_GRAY = (96, 96, 96)

# "Color Universal Design" (Okabe and Ito, 2008): told apart by colour-blind people too.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def write_contact_sheet(split: Split, target: Path) -> None:
    """Writes a PNG of at most `TILES` evenly spaced images; one that cannot be read is a gray tile.

    Raises:
        InputError: the file cannot be written.
    """
    from PIL import Image, ImageDraw

    chosen = evenly_spaced(split.images, TILES)
    rows = -(-len(chosen) // _COLUMNS)
    height = _TILE_PX + _CAPTION_PX
    columns = min(len(chosen), _COLUMNS)
    page = Image.new("RGB", (columns * (_TILE_PX + _GAP_PX), rows * (height + _GAP_PX)), "white")
    draw = ImageDraw.Draw(page)
    order = list(split.categories)
    for number, image in enumerate(chosen):
        left, top = number % _COLUMNS * (_TILE_PX + _GAP_PX), number // _COLUMNS * (height + _GAP_PX)
        page.paste(_tile(image, order), (left, top))
        caption = image.label or ", ".join(sorted({split.categories[each.category_id] for each in image.objects}))
        draw.text((left + 2, top + _TILE_PX + 1), _printable(caption or image.name)[:30], fill="black")
    with atomic_path(target) as path:
        page.save(path, format="PNG")


def _tile(image: AnnotatedImage, order: Sequence[int]) -> Image.Image:
    """Returns an image that is scaled into a square, with its boxes."""
    import numpy as np
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (_TILE_PX, _TILE_PX), "white")
    try:
        content = image.item.read()
    except InputError:
        return Image.new("RGB", (_TILE_PX, _TILE_PX), _GRAY)
    if content.dtype != np.uint8:  # an input that is ready is no picture
        return Image.new("RGB", (_TILE_PX, _TILE_PX), _GRAY)
    picture = Image.fromarray(content)
    scale = _TILE_PX / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BOX)
    down = _TILE_PX - small.height  # above its caption
    tile.paste(small, (0, down))
    draw = ImageDraw.Draw(tile)
    for each in image.objects:
        left, top, width, height = (value * scale for value in each.box)
        colour = _GRAY if each.is_ignored else _COLOURS[order.index(each.category_id) % len(_COLOURS)]
        draw.rectangle((left, top + down, left + width, top + down + height), outline=colour, width=2)
    return tile


def _printable(text: str) -> str:
    """Returns a text that Pillow's own font can draw."""
    return text.encode("latin-1", "replace").decode("latin-1")
