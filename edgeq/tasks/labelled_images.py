"""Images with a label each, from a folder per class, a JSON object, or a text file."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.boundary import Integer, convert, read_json, read_text
from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES, existing_images, list_images
from edgeq.inputs.items import Item, image_files, path_of

_log = logging.getLogger(__name__)

_WANTED = "a JSON object of file name and class, or a text file with lines `path,class`"


@dataclass(frozen=True)
class LabelledImages:
    """Images and the class of each, as a folder or file states them.

    Attributes:
        source: The folder or file.
        items: The images; they are not opened.
        names: What results call each.
        classes: The class of each: an index, or what a text says (a name, or an index in digits).
        folders: Names of the class folders, sorted; empty where the classes come from a file.
        class_map: Class name of a model -> what the text of a class is, as the user says.
    """

    source: Path
    items: Sequence[Item]
    names: Sequence[str]
    classes: tuple[int | str, ...]
    folders: tuple[str, ...] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The image files; of images in memory their names."""
        return tuple(map(path_of, self.items))


def load_labelled_images(source: Path | None, images_dir: Path) -> LabelledImages:
    """Returns the images of a data set with their classes.

    Args:
        source: A JSON object of file name -> class, or a text or CSV file with lines `path,class` or `path class`
            (without a comma or tab the class is the last word); a first line that names no image is a heading. `None`
            where `images_dir` has one sub-folder a class.
        images_dir: Folder that the paths of `source` start from, or the one with the sub-folders.

    Raises:
        InputError: nothing is found, a class folder is empty, or the file has another form.
    """
    if source is None:
        return _from_folders(images_dir)
    if not source.is_file():
        raise InputError(f"{source}: no such file; wanted {_WANTED}")
    rows = _from_json(source) if source.suffix.lower() == ".json" else _from_text(source)
    if not rows:
        raise InputError(f"{source}: names no images; wanted {_WANTED}")
    paths = existing_images(source, images_dir, [name for name, _ in rows])
    names = relative_names(paths, images_dir)
    return LabelledImages(source, image_files(paths), names, tuple(label for _, label in rows))


def labelled_images_of(split: Split, purpose: str) -> LabelledImages:
    """Returns the images of a data set that state a class, or a text, each.

    Args:
        split: A part of a data set.
        purpose: What is missing if there are none, for the error.

    Raises:
        InputError: no image states one.
    """
    labelled = [image for image in split.images if image.label is not None]
    if not labelled:
        raise InputError(f"{split.source}: is {split.format} without {purpose}")
    return LabelledImages(
        split.source,
        [image.item for image in labelled],
        tuple(image.name for image in labelled),
        tuple(str(image.label) for image in labelled),
        tuple(split.categories.values()) if split.class_folders else (),
        split.class_map,
    )


def relative_names(paths: Sequence[Path], folder: Path) -> tuple[str, ...]:
    """Returns the images' paths in a folder, with `/` on every system; of images elsewhere the file name."""
    return tuple(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name for path in paths)


def _from_folders(folder: Path) -> LabelledImages:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; wanted one with a sub-folder of images for each class")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{folder}: has no sub-folder for each class; give the classes with `annotations`, {_WANTED}")
    found = [(path, each.name) for each in folders for path in list_images(each)]
    paths = [path for path, _ in found]
    return LabelledImages(
        folder, image_files(paths), relative_names(paths, folder), tuple(name for _, name in found),
        tuple(each.name for each in folders),
    )  # fmt: skip


def warn_of_missing(source: Path, files: Sequence[Path], things: str) -> None:
    """Warns if images have no file that says what they show: they count as images without `things`."""
    missing = sum(not file.is_file() for file in files)
    if missing:
        _log.warning("%s: %d of %d images have no file; they count as images without %s",
                     source, missing, len(files), things)  # fmt: skip


def _from_json(source: Path) -> list[tuple[str, int | str]]:
    found = read_json(source, dict[str, Any], kind=_WANTED)
    if {"images", "annotations"} <= found.keys():
        raise InputError(f"{source}: is a COCO file, which is for detectors; wanted {_WANTED}")
    for name, label in found.items():
        convert(label, Integer | str, source=source, kind=_WANTED, place=f"$[{name!r}]")  # type: ignore[arg-type]
    return list(found.items())


def _from_text(source: Path) -> list[tuple[str, int | str]]:
    lines = read_text(source, kind=_WANTED).splitlines()
    rows: list[tuple[str, int | str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, label = _split(source, number, line.strip())
        if number > 1 or Path(name).suffix.lower() in IMAGE_SUFFIXES:
            rows.append((name, label))
    return rows


def _split(source: Path, number: int, line: str) -> tuple[str, str]:
    if "\t" in line:
        cells = line.split("\t")
    elif "," in line:
        cells = next(csv.reader([line]))
    else:
        cells = line.rsplit(maxsplit=1)
    if len(cells) != 2 or not all(cell.strip() for cell in cells):
        raise InputError(f"{source}: line {number} is {line[:80]!r}; wanted `path,class` or `path class`")
    return cells[0].strip(), cells[1].strip()
