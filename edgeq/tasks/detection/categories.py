"""Which category of the annotations each class of a model is, and which detections count."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.class_names import ClassMatch, match_classes
from edgeq.errors import InputError
from edgeq.tasks.detection.detections import Detections

if TYPE_CHECKING:
    from edgeq.tasks.detection.coco import GroundTruth

NO_CATEGORY = -(2**63)
"""Stands for the category of a class that the annotations do not have."""

NO_CLASS = "N/A"
"""The label of a class index that stands for nothing, as those of COCO's ids that have no category."""

_SHOWN = 10

_log = logging.getLogger(__name__)


def category_ids(ground_truth: GroundTruth, labels: Sequence[str]) -> NDArray[np.int64]:
    """Returns the category id of every class index `(classes,)`, `NO_CATEGORY` for one that is not annotated.

    Args:
        ground_truth: The annotations.
        labels: The model's class names; without any, its classes are taken for the categories by ascending id.

    Raises:
        InputError: the annotations have none of the classes, or one of them twice.
    """
    if not labels:
        return np.array(list(ground_truth.categories), np.int64)
    pairs = _match(ground_truth, labels).pairs
    ids = {name: category for category, name in ground_truth.categories.items()}
    return np.array([ids[pairs[label]] if label in pairs else NO_CATEGORY for label in labels], np.int64)


def report_categories(ground_truth: GroundTruth, labels: Sequence[str]) -> None:
    """Logs what classes were taken for what, unless every one was found by its own name.

    Raises:
        InputError: see `category_ids`.
    """
    if labels:
        matched = _match(ground_truth, labels)
        if not matched.is_plain:
            level = logging.WARNING if matched.model_only or matched.data_only else logging.INFO
            _log.log(level, "%s: %s", ground_truth.source.name, matched.describe())
        return
    pairs = [f"{index} = {name}" for index, name in enumerate(ground_truth.categories.values())]
    _log.warning(
        "the model has no class names: its classes are taken for those of %s by position (%s%s); name them with "
        "`labels` if that is wrong",
        *(ground_truth.source.name, ", ".join(pairs[:_SHOWN]), ", ..." if len(pairs) > _SHOWN else ""),
    )


def counted_detections(
    ground_truth: GroundTruth, categories: NDArray[np.int64], detections: Mapping[int, Detections]
) -> dict[int, Detections]:
    """Returns the detections that are right or wrong: of categories that somebody looked for in the image.

    Args:
        ground_truth: The annotations.
        categories: Category id of every class index, see `category_ids`.
        detections: Image id -> detections.

    Raises:
        InputError: a detection is of a class that the model's labels, or the data, do not have.
    """
    counted = {}
    for image, found in detections.items():
        keep = is_counted(ground_truth, categories, image, found.classes)
        counted[image] = found if keep.all() else Detections(found.boxes[keep], found.scores[keep], found.classes[keep])
    return counted


def is_counted(
    ground_truth: GroundTruth, categories: NDArray[np.int64], image: int, classes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Returns of which classes found in an image `(N,)` a result is right or wrong: those that somebody looked for.

    Args:
        ground_truth: The annotations.
        categories: Category id of every class index, see `category_ids`.
        image: Id of the image.
        classes: Class index of each result.

    Raises:
        InputError: a result is of a class that the model's labels, or the data, do not have.
    """
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(categories):
        raise InputError(
            f"{ground_truth.source}: has {len(categories)} categories, but the model detected class {classes.max()} "
            "(counted from 0); score on annotations of the model's classes, or export it with their `labels`"
        )
    verified = ground_truth.verified.get(image)
    if verified is None:
        known: NDArray[np.bool_] = categories[classes] != NO_CATEGORY
        return known
    return np.isin(categories[classes], np.array(sorted(verified), np.int64))


def _match(ground_truth: GroundTruth, labels: Sequence[str]) -> ClassMatch:
    labels = [label for label in labels if label != NO_CLASS]
    names = list(ground_truth.categories.values())
    matched = match_classes(labels, names, ground_truth.class_map)
    if not matched.pairs:
        found = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        first = next(iter(labels), NO_CLASS)
        raise InputError(
            f"{ground_truth.source}: has no categories named {first!r} or as another class that the model detects; "
            f"found {found}. Score on annotations of the model's classes, export it with their `labels`, or join two "
            "names with `map` MODEL=DATA"
        )
    return matched
