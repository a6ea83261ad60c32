"""DOTA: oriented boxes in a text file per image, in `labelTxt/` next to `images/` ("DOTA", Xia et al., 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from edgeq.boundary import read_text
from edgeq.datasets.boxes import annotation, box_around, polygon_area
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, Annotation, DatasetFiles, Split
from edgeq.errors import InputError
from edgeq.inputs.images import image_size
from edgeq.inputs.items import ImageFile

TITLE = "DOTA"
LINE = "x1 y1 x2 y2 x3 y3 x4 y4 category difficult"
_HEADINGS = ("imagesource", "gsd")
_LABEL_FOLDERS = ("labelTxt", "labelTxt-v1.0", "labelTxt-v1.5", "labelTxt-v2.0", "annfiles")


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a folder of this format, or one with such a folder per split."""
    if not path.is_dir():
        return None
    parts = {WHOLE: path} | {
        SPLIT_NAMES[each.name.lower()]: each
        for each in sorted(path.iterdir())
        if each.is_dir() and each.name.lower() in SPLIT_NAMES
    }
    labels = {name: _labels(root) for name, root in parts.items()}
    readers = {
        name: partial(_read, parts[name], found, name, folder) for name, found in labels.items() if found is not None
    }
    return DatasetFiles(TITLE, path, readers) if readers else None


def _labels(root: Path) -> Path | None:
    """Returns the folder of the labels, if there is one with images next to it."""
    found = next((root / name for name in _LABEL_FOLDERS if (root / name).is_dir()), None)
    return found if found is not None and (root / "images").is_dir() else None


def _read(root: Path, labels: Path, name: str, folder: DataFolder) -> Split:
    findings = Findings()
    paths = folder.list_images(root / "images")
    files = {path: labels / path.relative_to(root / "images").with_suffix(".txt") for path in paths}
    files = {path: file for path, file in files.items() if file.is_file() and folder.contains(file)}
    lines = {path: list(_lines(file, findings, folder.name_of(file))) for path, file in files.items()}
    names = sorted({category for found in lines.values() for _, category, _, _ in found})
    ids = {category: number for number, category in enumerate(names)}
    images = [
        AnnotatedImage(
            number, ImageFile(path), folder.name_of(path), objects=_objects(path, lines.get(path, ()), ids, findings),
            is_background=path not in lines,
        )
        for number, path in enumerate(paths, start=1)
    ]  # fmt: skip
    return Split(TITLE, root, name, tuple(images), {number: each for each, number in ids.items()}, findings=findings)


_Line = tuple[list[float], str, bool, str]


def _lines(file: Path, findings: Findings, where: str) -> Iterator[_Line]:
    """Yields corners, category and difficulty of each object, and where it stands."""
    for number, line in enumerate(read_text(file, kind=f"lines {LINE}").splitlines(), start=1):
        cells = line.split()
        if not cells or cells[0].lower().startswith(_HEADINGS):
            continue
        try:
            corners, category = [float(cell) for cell in cells[:8]], cells[8]
            difficult = len(cells) > 9 and int(cells[9]) != 0
        except (ValueError, IndexError):
            findings.add(f"lines that are not `{LINE}`, left out", f"{where} line {number}")
            continue
        yield corners, category, difficult, f"{where} line {number}"


def _objects(
    path: Path, lines: tuple[_Line, ...] | list[_Line], ids: Mapping[str, int], findings: Findings
) -> tuple[Annotation, ...]:
    try:
        size = image_size(path)
    except InputError:  # reading it will say so
        size = None
    objects = []
    for corners, category, difficult, where in lines:
        area = polygon_area(corners) if all(map(math.isfinite, corners)) else None
        found = annotation(
            ids[category], box_around(corners), findings, where, size_px=size, area_px=area, is_ignored=difficult,
            polygons=[corners],
        )  # fmt: skip
        if found is not None:
            objects.append(found)
    return tuple(objects)
