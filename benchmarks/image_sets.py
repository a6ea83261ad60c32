"""The real images as `edgeq eval` and `edgeq calibrate` take them; classification data is unpacked into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeq.inputs.images import list_images

IMAGE_SETS = ("coco", "bccd", "cifar10", "fashionmnist")
"""Names that `image_set` knows."""


@dataclass(frozen=True)
class ImageSet:
    """Images to calibrate on, and others to score on.

    Attributes:
        calibration: Folder or annotations of the images to calibrate on.
        calibration_images: Folder that annotations start from.
        truth: Annotations or labels of the images to score on.
        images: Folder of these.
    """

    calibration: Path
    calibration_images: Path | None
    truth: Path
    images: Path

    def validation_paths(self) -> list[Path]:
        """Returns the images to score on."""
        source = self.truth if self.truth.suffix == ".json" else self.images
        return list_images(source, self.images)


def image_set(name: str, data: Path, folder: Path, *, scored_every: int = 1) -> ImageSet:
    """Returns one of `IMAGE_SETS`.

    Args:
        name: Of the set.
        data: Folder of the real data.
        folder: Folder that classification data is unpacked into: 500 images to calibrate on, 10,000 to score on.
        scored_every: Of these 10,000 every so many are unpacked.
    """
    if name == "coco":
        return ImageSet(data / "coco/train2017", None, data / "coco/instances_val.json", data / "coco/val2017")
    if name == "bccd":
        images = data / "bccd/images"
        return ImageSet(data / "bccd/instances_train.json", images, data / "bccd/instances_val.json", images)
    train, test = folder / f"{name}_train", folder / f"{name}_test"
    if not (test / "labels.csv").is_file():
        unpack, stored, share = {
            "cifar10": (unpack_cifar, ("cifar10_train5k_jpeg_calib", "cifar10_test10k_jpeg"), (10, scored_every)),
            "fashionmnist": (
                unpack_fashionmnist,
                ("fashionmnist_train2k_calib", "fashionmnist_test10k"),
                (4, scored_every),
            ),
        }[name]
        for of, archive, every in zip((train, test), stored, share, strict=True):
            unpack(data, archive, of, every=every)
    return ImageSet(train, None, test / "labels.csv", test)


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
