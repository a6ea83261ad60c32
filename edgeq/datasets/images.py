"""Images and nothing about them, in a folder: enough to calibrate on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, DatasetFiles, Split
from edgeq.inputs.images import ARRAY_SUFFIX
from edgeq.inputs.items import image_files

TITLE = "images"


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a folder with images in it, or `.npy` files; otherwise `None`."""
    if not path.is_dir():
        return None
    paths = folder.list_images(path) or sorted(each for each in path.rglob(f"*{ARRAY_SUFFIX}") if folder.contains(each))
    by_split: dict[str, list[Path]] = {}
    for each in paths:
        by_split.setdefault(SPLIT_NAMES.get(each.relative_to(path).parts[0].lower(), WHOLE), []).append(each)
    if not paths:
        return None
    return DatasetFiles(
        TITLE, path, {name: partial(_read, path, name, found, folder) for name, found in by_split.items()}
    )


def _read(source: Path, name: str, paths: list[Path], folder: DataFolder) -> Split:
    images = tuple(
        AnnotatedImage(number, item, folder.name_of(path))
        for number, (path, item) in enumerate(zip(paths, image_files(paths), strict=True), start=1)
    )
    return Split(TITLE, source, name, images)
