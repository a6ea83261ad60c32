"""`.npz`: images of one size as an array, with the class of each or without."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import WHOLE, AnnotatedImage, DatasetFiles, Split, split_of
from edgeq.errors import InputError
from edgeq.inputs.array_files import read_arrays
from edgeq.inputs.items import MemoryItem

TITLE = "arrays"
_IMAGES = ("x", "images", "image", "data", "arr_0")
_CLASSES = ("y", "labels", "label", "targets", "arr_1")
_WANTED = (
    f"images (N, H, W), (N, H, W, 3) or (N, 3, H, W) of uint8 under {' or '.join(_IMAGES)}, and classes (N,) under "
    f"{' or '.join(_CLASSES)}"
)


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a `.npz` file; otherwise `None`."""
    if not path.is_file() or path.suffix.lower() != ".npz":
        return None
    name = split_of(path.stem) or WHOLE
    return DatasetFiles(TITLE, path, {name: partial(_read, path, name)})


def _read(file: Path, name: str) -> Split:
    stored = read_arrays(file, (*_IMAGES, *_CLASSES))
    images = next((stored[key] for key in _IMAGES if key in stored), None)
    classes = next((stored[key] for key in _CLASSES if key in stored), None)
    if images is None or images.dtype != np.uint8 or not images.size:
        raise InputError(f"{file}: holds {_described(stored)}; wanted {_WANTED}")
    pixels = _rgb(images)
    labels: list[str | None] = [None] * len(images)
    if pixels is None or (classes is not None and classes.shape != (len(images),)):
        raise InputError(f"{file}: holds {_described(stored)}; wanted {_WANTED}")
    if classes is not None:
        labels = [str(value) for value in classes.tolist()]
    names = sorted({label for label in labels if label is not None}, key=lambda each: (len(each), each))
    return Split(
        TITLE,
        file,
        name,
        tuple(
            AnnotatedImage(number + 1, MemoryItem(f"{file.name}[{number}]", pixels[number]), f"{number}", label=label)
            for number, label in enumerate(labels)
        ),
        dict(enumerate(names)),
    )


def _rgb(images: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Returns images as `(N, H, W, 3)`, a view where that is possible; `None` for another shape."""
    if images.ndim == 4 and images.shape[1] == 3 and images.shape[3] != 3:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 3:
        images = np.broadcast_to(images[..., None], (*images.shape, 3))
    return images if images.ndim == 4 and images.shape[3] == 3 else None


def _described(stored: dict[str, NDArray[np.generic]]) -> str:
    return ", ".join(f"{key} {array.shape} of {array.dtype}" for key, array in stored.items()) or "no array of these"
