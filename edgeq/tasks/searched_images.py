"""Images that are searched for each other, with their classes where something tells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES, list_images
from edgeq.tasks.labelled_images import load_labelled_images


@dataclass(frozen=True)
class SearchedImages:
    """Images that are searched for each other.

    Attributes:
        source: The folder, or the file with their classes.
        paths: The image files; they are not opened.
        classes: Class of each `(images,)`, as numbers without a meaning; `None` where classes are unknown or all one.
    """

    source: Path
    paths: tuple[Path, ...]
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
        source, paths, labels = images_dir, tuple(list_images(images_dir)), []
    else:
        images = load_labelled_images(annotations, images_dir)
        source, paths, labels = images.source, images.paths, [str(label) for label in images.classes]
    return searched_images(source, paths, labels)


def searched_images(source: Path, paths: tuple[Path, ...], labels: Sequence[str]) -> SearchedImages:
    """Returns images that are searched for each other, with their classes if there is one for each.

    Raises:
        InputError: there are fewer than two images.
    """
    if len(paths) < 2:
        raise InputError(f"{source}: holds a single image, which has no neighbour; embeddings want two images or more")
    classes = np.unique(labels, return_inverse=True)[1].astype(np.int64) if len(set(labels)) > 1 else None
    return SearchedImages(source, paths, classes)


def _has_class_folders(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    flat = any(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in entries)
    return not flat and any(path.is_dir() for path in entries)
