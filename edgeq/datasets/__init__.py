"""Data sets as people have them: one file per format, each read into `edgeq.datasets.split.Split`.

A format is one file in this folder and one line in `DATA_FORMATS`; third parties register through the entry point group
`edgeq.data_formats`. A data set is recognised by its content: every format is asked, in the table's order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import DatasetFiles, Split
from edgeq.errors import InputError
from edgeq.registry import load_entry, registered

__all__ = ["DATA_FORMATS", "DataFormat", "DatasetFiles", "Split", "find_dataset", "open_split"]

DataFormat: TypeAlias = "Callable[[Path, DataFolder], DatasetFiles | None]"
"""Returns the data set if a path is one of the format, `None` if it is not; raises `InputError` for a broken one."""

DATA_FORMATS: dict[str, str] = {
    "yolo": "edgeq.datasets.yolo:find",
    "cvat": "edgeq.datasets.cvat:find",
    "label-studio": "edgeq.datasets.label_studio:find",
    "coco": "edgeq.datasets.coco:find",
    "dota": "edgeq.datasets.dota:find",
    "text": "edgeq.datasets.text:find",
    "voc": "edgeq.datasets.voc:find",
    "maps": "edgeq.datasets.map_folders:find",
    "arrays": "edgeq.datasets.arrays:find",
    "video": "edgeq.datasets.video:find",
    "image-list": "edgeq.datasets.image_list:find",
    "image-folder": "edgeq.datasets.image_folder:find",
    "images": "edgeq.datasets.images:find",
}

_log = logging.getLogger(__name__)

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")

Purpose = Literal["calibration", "evaluation"]

_PREFERRED: dict[Purpose, tuple[str, ...]] = {"calibration": ("train", "val"), "evaluation": ("val", "test")}


def find_dataset(path: Path, *, allow_outside: bool = False) -> DatasetFiles:
    """Returns the data set that a file or folder is.

    Args:
        path: The file or folder.
        allow_outside: Whether files may be read that the data set names outside its own folder.

    Raises:
        InputError: there is none, of no known format, or it is broken.
    """
    if not path.exists():
        raise InputError(f"`data` {path}: no such file or folder; wanted a data set")
    if path.suffix.lower() in _ARCHIVES and path.is_file():
        raise InputError(f"`data` {path}: is an archive; unpack it and give the folder")
    own = path.resolve()
    folder = DataFolder(own if own.is_dir() else _folder_of(own), allow_outside=allow_outside)
    for name in dict.fromkeys([*DATA_FORMATS, *registered("data format", DATA_FORMATS)]):
        find: DataFormat = load_entry("data format", DATA_FORMATS, name)
        if (found := find(own, folder)) is not None:
            return found
    raise InputError(
        f"`data` {path}: is not a data set that edgeq knows; wanted COCO, YOLO, Pascal VOC, CVAT, Label Studio, DOTA, "
        "text of ICDAR or PaddleOCR, images with masks or depth maps, a folder per class, a CSV of paths, arrays "
        "(.npz), a folder of images, or a video"
    )


def _folder_of(file: Path) -> Path:
    """Returns the folder of the data set that a file describes: COCO's lie in `annotations/`, next to the images."""
    return file.parents[1] if file.parent.name.lower() == "annotations" else file.parent


def open_split(path: Path, purpose: Purpose, split: str | None = None, *, allow_outside: bool = False) -> Split:
    """Returns the part of a data set that a job takes, read except for the pixels; logs what is odd about it.

    Args:
        path: The data set: a file or folder.
        purpose: Calibration takes `train`, or else `val`; evaluation takes `val`, or else `test`. Both take the only
            split there is.
        split: The split to take instead.
        allow_outside: See `find_dataset`.

    Raises:
        InputError: there is no such data set or split, or it is broken.
    """
    dataset = find_dataset(path, allow_outside=allow_outside)
    names = list(dataset.readers)
    if split is not None:
        chosen = split if split in names else None
    elif len(names) == 1:
        chosen = names[0]
    else:
        chosen = next((name for name in _PREFERRED[purpose] if name in names), None)
    if chosen is None:
        wanted = f"`split` {split}" if split else f"{path}: has no {' or '.join(_PREFERRED[purpose])} split"
        raise InputError(f"{wanted}: the data set has {', '.join(names)}; choose one of them with `split`")
    found = dataset.readers[chosen]()
    for line in found.findings.lines:
        _log.warning("%s: %s", found.source.name, line)
    if not found.images:
        raise InputError(f"{path}: its split {chosen!r} has no image left; {'; '.join(found.findings.lines)}")
    return found
