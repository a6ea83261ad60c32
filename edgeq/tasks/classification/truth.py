"""Which class of a model each image is of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.class_names import match_classes
from edgeq.errors import InputError
from edgeq.tasks.labelled_images import LabelledImages


def class_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the class index `(images,)` of every image, 0 to `classes - 1`.

    Text is looked up among `labels` where all of it is there, otherwise read as indices if it is digits, and otherwise
    matched by spelling and synonym (`edgeq.datasets.class_names`). Class folders without
    either are the classes in sorted order, as torchvision's `ImageFolder` counts them.

    Args:
        images: The images.
        classes: How many classes the model tells apart.
        labels: Their names, by index; empty where the model has none.

    Raises:
        InputError: a name is unknown, an index too high, or there are more or fewer folders than classes.
    """
    index = _text_indices(images, classes, labels)
    found = [index[label] if isinstance(label, str) else label for label in images.classes]
    for path, number in zip(images.paths, found, strict=True):
        if not 0 <= number < classes:
            raise InputError(
                f"{images.source}: {path.name} is of class {number}, but the model has {classes} classes (0 to "
                f"{classes - 1}); if it has a background class that the labels count too, omit the option offset"
            )
    return np.array(found, np.int64)


def _text_indices(images: LabelledImages, classes: int, labels: Sequence[str]) -> dict[str, int]:
    """Returns the class index of every text that stands for a class."""
    texts = {label for label in images.classes if isinstance(label, str)}
    if texts <= set(labels) and not images.class_map:
        return {label: number for number, label in enumerate(labels)}
    if all(text.isdecimal() for text in texts):
        return {text: int(text) for text in texts}
    if labels:
        pairs = match_classes(labels, sorted(texts), images.class_map).pairs
        if texts <= set(pairs.values()):
            return {pairs[label]: number for number, label in enumerate(labels) if label in pairs}
    if images.folders and not labels:
        if len(images.folders) != classes:
            raise InputError(
                f"{images.source}: has {len(images.folders)} class folders, and the model {classes} classes without "
                "names; name the folders by class index, or score a model with labels"
            )
        return {name: number for number, name in enumerate(images.folders)}
    unknown = min(texts - set(labels), key=lambda text: (text.isdecimal(), text))
    names = f"its names ({', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}) or " if labels else ""
    raise InputError(
        f"{images.source}: has a class {unknown!r}, which the model does not know; wanted {names}indices 0 to "
        f"{classes - 1}"
    )
