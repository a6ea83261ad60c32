"""Files of image paths, with the class of each or without: CSV, text, or a JSON object of path and class.

A column `split` of a CSV file divides the images.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgeq.boundary import Integer, read_json, read_text
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, DatasetFiles, Split
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES
from edgeq.inputs.items import ImageFile

TITLE = "list of images"
_SUFFIXES = (".csv", ".tsv", ".txt")
_WANTED = "lines `path` or `path,class`"
_KINDS = "a COCO file, tasks of Label Studio, or an object of path and class"
_CLASS_HEADINGS = ("label", "class", "class_name", "category", "target")
_SPLIT_HEADINGS = ("split", "set", "subset", "fold")

_Row = tuple[str, str | None]


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is such a file, or a folder whose only `.csv` is one; otherwise `None`."""
    files = [path] if path.is_file() else sorted(path.glob("*.csv"))
    if path.is_file() and path.suffix.lower() == ".json":
        classes = read_json(path, dict[str, Integer | str], kind=f"a data set: {_KINDS}")
        named: list[_Row] = [(name, str(label)) for name, label in classes.items()]
        return DatasetFiles(TITLE, path, {WHOLE: partial(_read, path, WHOLE, named, folder)})
    if len(files) != 1 or files[0].suffix.lower() not in _SUFFIXES:
        return None
    rows = _rows(files[0], required=path.is_file())
    if not rows:
        return None
    readers = {name: partial(_read, files[0], name, found, folder) for name, found in rows.items()}
    return DatasetFiles(TITLE, files[0], readers)


def _rows(file: Path, *, required: bool) -> dict[str, list[_Row]]:
    """Returns split -> path and class of its images; nothing where a file that may be another is no such list."""
    lines = [line for line in read_text(file, kind=f"a text file with {_WANTED}").splitlines() if line.strip()]
    delimiter = next((mark for mark in "\t;," if any(mark in line for line in lines[:1])), ",")
    table = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    if not table:
        raise InputError(f"{file}: names no images; wanted {_WANTED}")
    heading = None if _is_image(table[0][0]) else [cell.lower() for cell in table.pop(0)]
    label = _column(heading, _CLASS_HEADINGS, 1)
    split = _column(heading, _SPLIT_HEADINGS, None)
    by_split: dict[str, list[_Row]] = {}
    for number, row in enumerate(table, start=1 if heading is None else 2):
        if not row[0] or (not required and not _is_image(row[0])):
            if not required:
                return {}
            raise InputError(f"{file}: line {number} is {','.join(row)[:80]!r}; wanted {_WANTED}")
        named = row[split].lower() if split is not None and len(row) > split else ""
        name = SPLIT_NAMES.get(named, named or WHOLE)
        has_class = label is not None and label != split and len(row) > label and row[label]
        by_split.setdefault(name, []).append((row[0], row[label or 0] if has_class else None))
    return by_split


def _column(heading: Sequence[str] | None, names: Sequence[str], default: int | None) -> int | None:
    """Returns which column has one of the names; without a heading the default one."""
    if heading is None:
        return default
    return next((index for index, cell in enumerate(heading) if cell in names), None if len(heading) > 2 else default)


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def _read(file: Path, name: str, rows: Sequence[_Row], folder: DataFolder) -> Split:
    findings = Findings()
    images = []
    for number, (stated, label) in enumerate(rows, start=1):
        try:
            path = folder.locate(stated, [file.parent])
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", stated)
            continue
        if not path.is_file() and len(named := folder.images_named(stated)) == 1:
            path = named[0]
        images.append(AnnotatedImage(number, ImageFile(path), folder.name_of(path), label=label))
    if not rows:
        raise InputError(f"{file}: names no images; wanted a data set: {_KINDS}")
    if not any(isinstance(each.item, ImageFile) and each.item.path.is_file() for each in images):
        raise InputError(
            f"{file}: none of its {len(rows)} images is in {folder.root} (the first is {rows[0][0][:80]!r}); give "
            "`data` their folder, or `allow_outside`"
        )
    labels = sorted({image.label for image in images if image.label is not None})
    return Split(TITLE, file, name, tuple(images), dict(enumerate(labels)), findings=findings)
