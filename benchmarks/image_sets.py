"""The real classification data as `edgeq eval` and `edgeq calibrate` take it: image files and a file of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def unpack_cifar(data: Path, name: str, folder: Path, *, every: int) -> Path:
    """Returns the label file of every n-th image of a set under `classification/`, written beside the images."""
    folder.mkdir(exist_ok=True)
    with np.load(data / "classification" / f"{name}.npz", allow_pickle=False) as stored:
        content, offsets, classes = stored["jpg"].tobytes(), stored["offsets"], stored["y"]
    chosen = range(0, len(classes), every)
    for index in chosen:
        (folder / f"{index}.jpg").write_bytes(content[offsets[index] : offsets[index + 1]])
    return _write_labels(folder, chosen, classes, "jpg")


def unpack_fashionmnist(data: Path, name: str, folder: Path, *, every: int) -> Path:
    """As `unpack_cifar`, for the gray images of Fashion-MNIST, which are written without loss."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    with np.load(data / "classification" / f"{name}.npz", allow_pickle=False) as stored:
        images, classes = stored["x"], stored["y"]
    chosen = range(0, len(classes), every)
    for index in chosen:
        Image.fromarray(images[index]).save(folder / f"{index}.png")
    return _write_labels(folder, chosen, classes, "png")


def _write_labels(folder: Path, chosen: Sequence[int], classes: Sequence[int], suffix: str) -> Path:
    labels = folder / "labels.csv"
    labels.write_text("\n".join(f"{index}.{suffix},{classes[index]}" for index in chosen) + "\n")
    return labels
