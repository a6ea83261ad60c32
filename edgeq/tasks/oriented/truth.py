"""Where objects really are, by DOTA's text files ("DOTA", Xia et al., 2018)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.boundary import read_text
from edgeq.datasets.dota import LINE
from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.inputs.images import list_images
from edgeq.tasks.labelled_images import warn_of_missing
from edgeq.tasks.outlines import rectangle_of
from edgeq.tasks.polygons import Polygon

_HEADINGS = ("imagesource", "gsd")


@dataclass(frozen=True)
class TrueObject:
    """An object of an image.

    Attributes:
        corners: `(4, 2)`, in the image's pixels.
        category: Name of its class.
        difficult: Whether it need not be found.
    """

    corners: Polygon
    category: str
    difficult: bool


def load_objects(annotations: Path | None, images_dir: Path) -> tuple[list[Path], list[list[TrueObject]]]:
    """Returns the images of a folder and their objects; an image without a file has none.

    Args:
        annotations: Folder with `NAME.txt` for every image NAME, lines `x1 y1 ... x4 y4 category difficult`.
        images_dir: Folder of the images.

    Raises:
        InputError: the folder holds none of the files, or a line has another form.
    """
    if annotations is None or not annotations.is_dir():
        raise InputError(
            f"oriented boxes are scored on DOTA's files; give `annotations`, a folder of NAME.txt with lines {LINE}"
        )
    paths = list_images(images_dir)
    files = [annotations / path.relative_to(images_dir).with_suffix(".txt") for path in paths]
    if not any(file.is_file() for file in files):
        raise InputError(f"{annotations}: holds none of the files of {len(files)} images, such as {files[0].name}")
    warn_of_missing(annotations, files, "objects")
    return paths, [_read(file) if file.is_file() else [] for file in files]


def objects_of(split: Split) -> list[list[TrueObject]]:
    """Returns the objects of each image of a data set, each with the smallest rectangle around it.

    Raises:
        InputError: there are none.
    """
    if not split.box_count:
        raise InputError(f"{split.source}: is {split.format} without objects; wanted DOTA, or YOLO with four corners")
    return [
        [TrueObject(rectangle_of(each), split.categories[each.category_id], each.is_ignored) for each in image.objects]
        for image in split.images
    ]


def _read(file: Path) -> list[TrueObject]:
    found = []
    for number, line in enumerate(read_text(file, kind=f"lines {LINE}").splitlines(), start=1):
        cells = line.split()
        if not cells or cells[0].lower().startswith(_HEADINGS):
            continue
        try:
            corners = [float(cell) for cell in cells[:8]]
            difficult = bool(int(cells[9])) if len(cells) > 9 else False
            category = cells[8]
        except (ValueError, IndexError):
            raise InputError(f"{file}: line {number} is {line[:60]!r}; wanted {LINE}") from None
        if not all(map(math.isfinite, corners)):
            raise InputError(f"{file}: line {number} has corners {corners}, which are not all finite; wanted {LINE}")
        found.append(TrueObject(np.array(corners).reshape(4, 2), category, difficult))
    return found
