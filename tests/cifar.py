"""CIFAR-10 as `edgeq eval` takes it: image files and a file of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def unpack_cifar(shared_data: Path, name: str, folder: Path, *, every: int) -> Path:
    """Returns the label file of every n-th image of a set under `classification/`, written beside the images."""
    folder.mkdir(exist_ok=True)
    with np.load(shared_data / "classification" / f"{name}.npz", allow_pickle=False) as stored:
        content, offsets, classes = stored["jpg"].tobytes(), stored["offsets"], stored["y"]
    chosen = range(0, len(classes), every)
    for index in chosen:
        (folder / f"{index}.jpg").write_bytes(content[offsets[index] : offsets[index + 1]])
    labels = folder / "labels.csv"
    labels.write_text("\n".join(f"{index}.jpg,{classes[index]}" for index in chosen) + "\n")
    return labels
