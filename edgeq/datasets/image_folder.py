"""ImageFolder: one folder of images per class, possibly one such tree per split (torchvision, Ultralytics)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, DatasetFiles, Split
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES
from edgeq.inputs.items import ImageFile

TITLE = "image folder"


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a folder whose images lie in folders of classes; otherwise `None`.

    A few beside these folders, fewer than there are folders, are left out and told: a preview, a figure of a page.
    """
    if not path.is_dir():
        return None
    splits = {SPLIT_NAMES[each.name.lower()]: each for each in _folders(path) if each.name.lower() in SPLIT_NAMES}
    trees = splits if splits and len(splits) == len(_folders(path)) else {WHOLE: path}
    if not all(_has_class_folders(tree, folder) for tree in trees.values()):
        return None
    return DatasetFiles(TITLE, path, {name: partial(_read, tree, name, path, folder) for name, tree in trees.items()})


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith((".", "__MACOSX")))


def _has_class_folders(tree: Path, folder: DataFolder) -> bool:
    found = [each for each in _folders(tree) if folder.list_images(each)]
    return len(found) > 1 and len(_images_beside(tree)) < len(found)


def _images_beside(tree: Path) -> list[Path]:
    return sorted(each for each in tree.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)


def _read(tree: Path, name: str, source: Path, folder: DataFolder) -> Split:
    classes = [each.name for each in _folders(tree)]
    found = [(path, each.name) for each in _folders(tree) for path in folder.list_images(each)]
    if not found:
        raise InputError(f"{tree}: holds no images in its {len(classes)} folders")
    images = tuple(
        AnnotatedImage(number, ImageFile(path), folder.name_of(path), label=label)
        for number, (path, label) in enumerate(found, start=1)
    )
    findings = Findings()
    for path in _images_beside(tree):
        findings.add("images next to the folders of classes, left out", folder.name_of(path))
    return Split(TITLE, source, name, images, dict(enumerate(classes)), class_folders=True, findings=findings)
