"""Images that are searched for each other, with their classes where something tells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES, list_images
from edgeq.inputs.items import Item, image_files
from edgeq.tasks.labelled_images import load_labelled_images, relative_names


@dataclass(frozen=True)
class SearchedImages:
    """Images that are searched for each other.

    Attributes:
        source: The folder, or the file with their classes.
        items: The images; they are not opened.
        names: What results call each.
        classes: Class of each `(images,)`, as numbers without a meaning; `None` where classes are unknown or all one.
    """

    source: Path
    items: Sequence[Item]
    names: Sequence[str]
    classes: NDArray[np.int64] | None


def load_searched_images(annotations: Path | None, images_dir: Path) -> SearchedImages:
    """Returns the images of a folder, with their classes where something tells them.

    Args:
        annotations: A file of image and class (`edgeq.tasks.labelled_images.load_labelled_images`), or `None`.
        images_dir: Folder of the images. Without `annotations`, one that holds only folders has a class in each.

    Raises:
        InputError: there are fewer than two images, a class folder is empty, or the file has another form.
    """
    if annotations is None and not _has_class_folders(images_dir):
        paths = list_images(images_dir)
        return _searched(images_dir, image_files(paths), relative_names(paths, images_dir), [])
    images = load_labelled_images(annotations, images_dir)
    return _searched(images.source, images.items, images.names, [str(label) for label in images.classes])


def searched_images_of(split: Split) -> SearchedImages:
    """Returns the images of a data set, with their classes if there is one for each.

    Raises:
        InputError: there are fewer than two images.
    """
    labels = [image.label for image in split.images if image.label is not None]
    names = [image.name for image in split.images]
    return _searched(split.source, split.items, names, labels if len(labels) == len(names) else [])


def _searched(source: Path, items: Sequence[Item], names: Sequence[str], labels: Sequence[str]) -> SearchedImages:
    if len(items) < 2:
        raise InputError(f"{source}: holds a single image, which has no neighbour; embeddings want two images or more")
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64) if len(set(labels)) > 1 else None
    return SearchedImages(source, items, names, classes)


def _has_class_folders(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    flat = any(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in entries)
    return not flat and any(path.is_dir() for path in entries)
