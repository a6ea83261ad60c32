"""Text in images: polygons with what they say.

Known layouts: ICDAR's, a file `gt_NAME.txt` per image with lines `x1,y1,...,x4,y4,transcription`; PaddleOCR's, one text
file with lines of an image and, behind a tab, a JSON list of `transcription` and `points`. Text that says `###` or `*`
is illegible.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from edgeq.boundary import parse_json, read_text
from edgeq.datasets.boxes import annotation, box_around, polygon_area
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError
from edgeq.datasets.split import WHOLE, AnnotatedImage, Annotation, DatasetFiles, Split, split_of
from edgeq.errors import InputError
from edgeq.inputs.items import ImageFile

TITLE = "text"
ILLEGIBLE = ("###", "*")
"""What a transcription says of text that nobody can read."""

_CATEGORIES = {0: "text"}
_KIND = "text of an image, lines x1,y1,...,x4,y4,transcription"
_LABEL_KIND = "lines `image<TAB>[{transcription, points}]`"


class _Piece(msgspec.Struct):
    transcription: str
    points: list[list[float]]


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a label file or a folder of this format; otherwise `None`."""
    if path.is_file():
        return _label_files([path], folder) if path.suffix.lower() in ("", ".txt") else None
    if found := _label_files(sorted(path.glob("*.txt")), folder):
        return found
    truth = sorted(each for each in path.rglob("gt_*.txt") if folder.contains(each))
    if not truth:
        return None
    by_split: dict[str, list[Path]] = {}
    for file in truth:
        first = file.relative_to(path).parts[0]
        by_split.setdefault((split_of(first) if first != file.name else None) or WHOLE, []).append(file)
    return DatasetFiles(
        TITLE, path, {name: partial(_read_icdar, path, name, files, folder) for name, files in by_split.items()}
    )


def _label_files(files: Sequence[Path], folder: DataFolder) -> DatasetFiles | None:
    found = {split_of(file.stem) or WHOLE: file for file in files if _is_label_file(file)}
    if not found:
        return None
    source = next(iter(found.values()))
    return DatasetFiles(
        TITLE, source if len(found) == 1 else source.parent,
        {name: partial(_read_labels, file, name, folder) for name, file in found.items()},
    )  # fmt: skip


def _is_label_file(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(4096)
    image, tab, rest = start.partition(b"\n")[0].partition(b"\t")
    return bool(image and tab) and rest.lstrip().startswith((b"[{", b"[]"))


def _read_labels(file: Path, name: str, folder: DataFolder) -> Split:
    findings = Findings()
    images = []
    for number, line in enumerate(read_text(file, kind=_LABEL_KIND).splitlines(), start=1):
        if not line.strip():
            continue
        stated, _, text = line.partition("\t")
        where = f"line {number}"
        try:
            pieces = parse_json(text.encode(), list[_Piece], source=where, kind="a list of `transcription`, `points`")
            path = folder.locate(stated, [file.parent, folder.root])
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", stated)
            continue
        except InputError as error:
            findings.add("images whose labels cannot be read, left out", error)
            continue
        if not path.is_file() and len(named := folder.images_named(stated)) == 1:
            path = named[0]
        found = [
            _piece([value for point in each.points for value in point], each.transcription, findings, where)
            for each in pieces
        ]
        objects = tuple(each for each in found if each is not None)
        images.append(AnnotatedImage(number, ImageFile(path), folder.name_of(path), objects=objects))
    return Split(TITLE, file, name, tuple(images), _CATEGORIES, findings=findings)


def _read_icdar(root: Path, name: str, files: Sequence[Path], folder: DataFolder) -> Split:
    findings = Findings()
    truth = {file.stem.removeprefix("gt_"): file for file in files}
    used = set()
    images = []
    for number, path in enumerate(folder.list_images(root), start=1):
        in_split = split_of(path.relative_to(root).parts[0]) if path.parent != root else None
        file = truth.get(path.stem)
        if (in_split or WHOLE) != name and file is None:
            continue
        objects = () if file is None else tuple(_pieces(file, findings, folder.name_of(file)))
        used.add(file)
        images.append(
            AnnotatedImage(number, ImageFile(path), folder.name_of(path), objects=objects, is_background=file is None)
        )
    for file in files:
        if file not in used:
            findings.add("files of text without their image, left out", folder.name_of(file))
    return Split(TITLE, root, name, tuple(images), _CATEGORIES, findings=findings)


def _pieces(file: Path, findings: Findings, where: str) -> list[Annotation]:
    found = []
    for number, line in enumerate(read_text(file, kind=_KIND).splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{where} line {number}"
        # A transcription may have commas, too.
        cells = next(csv.reader([line], quoting=csv.QUOTE_NONE))
        try:
            points = [float(cell) for cell in cells[:8]]
        except ValueError:
            findings.add("lines that are not x1,y1,...,x4,y4,transcription, left out", place)
            continue
        piece = _piece(points, ",".join(cells[8:]).strip(), findings, place)
        if piece is not None:
            found.append(piece)
    return found


def _piece(points: list[float], text: str, findings: Findings, where: str) -> Annotation | None:
    """Returns a piece of text; the truth is its polygon, so it is nothing without one."""
    if len(points) % 2:
        findings.add("polygons with an odd number of coordinates, left out", where)
        return None
    found = annotation(
        0, box_around(points), findings, where, size_px=None, area_px=polygon_area(points),
        is_ignored=text in ILLEGIBLE, polygons=[points], text=text,
    )  # fmt: skip
    return found if found is not None and found.polygons else None
