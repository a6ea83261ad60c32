"""What the tasks on COCO annotation files share: boxes, masks and keypoints of objects."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeq.datasets.split import Split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import existing_images
from edgeq.inputs.items import ImageFile, Item
from edgeq.tasks.base import Prediction, Task
from edgeq.tasks.detection.categories import category_ids, report_categories
from edgeq.tasks.detection.coco import GroundTruth, load_ground_truth
from edgeq.tasks.detection.coco_engine import check_engine
from edgeq.tasks.detection.ground_truth import ground_truth_of
from edgeq.tasks.evidence import label_of

if TYPE_CHECKING:
    from typing_extensions import Self


class CocoTask(Task[Prediction]):
    """A task on images with objects, scored as COCO scores them."""

    def __init__(self, truth: GroundTruth, items: Sequence[Item], engine: str) -> None:
        check_engine(engine)
        super().__init__(truth.source, items, [record.file_name for record in truth.images])
        self._engine = engine
        self._ground_truth = truth

    @classmethod
    def from_files(cls, annotations: Path | None, images_dir: Path, engine: str) -> Self:
        """Returns the task on the images of a COCO annotation file; see `Task.from_files`."""
        if annotations is None:
            raise InputError(f"models for {cls.name} are scored on a COCO annotation file; give `annotations`")
        check_engine(engine)
        truth = load_ground_truth(annotations)
        paths = existing_images(annotations, images_dir, [record.file_name for record in truth.images])
        items = [
            ImageFile(path, (record.width_px, record.height_px))
            for path, record in zip(paths, truth.images, strict=True)
        ]
        return cls(truth, items, engine)

    @classmethod
    def from_split(cls, split: Split, engine: str) -> Self:
        """Returns the task on images with objects.

        Raises:
            InputError: the data set has no objects, or none of the kind that the task is about.
            MissingDependencyError: the evaluator is not installed.
        """
        return cls(ground_truth_of(split), split.items, engine)

    @property
    def image_ids(self) -> list[int]:
        """The annotations' id of each image."""
        return [record.id for record in self._ground_truth.images]

    def file_names(self, image_ids: Sequence[int]) -> list[str]:
        """Returns the annotations' name of each image."""
        names = {record.id: record.file_name for record in self._ground_truth.images}
        return [names[image] for image in image_ids]

    def categories(self, artifact: Artifact) -> list[int]:
        """Returns the annotations' category id of every class of a model."""
        return [int(category) for category in category_ids(self._ground_truth, artifact.labels)]

    def true_objects(self, number: int, artifact: Artifact) -> Iterator[tuple[Mapping[str, Any], str, int]]:
        """Yields the annotations of an image that are of the model's classes, with label and class index of each."""
        classes = {category: index for index, category in enumerate(self.categories(artifact))}
        for entry in self._by_image.get(self._ground_truth.images[number].id, ()):
            index = classes.get(entry["category_id"])
            if index is not None:
                yield entry, f"{label_of(artifact, index)}{' (crowd)' if entry['iscrowd'] else ''}", index

    @functools.cached_property
    def _by_image(self) -> Mapping[int, list[Mapping[str, Any]]]:
        """Image id -> its annotations."""
        found: dict[int, list[Mapping[str, Any]]] = {}
        for entry in self.annotations:
            found.setdefault(entry["image_id"], []).append(entry)
        return found

    @property
    def annotations(self) -> Sequence[Mapping[str, Any]]:
        """The objects that count, as COCO's evaluation takes them."""
        return self._ground_truth.annotations

    def check(self, artifact: Artifact) -> None:
        """Raises where the annotations have no class of the model; logs which are matched, unless all are."""
        report_categories(self._ground_truth, artifact.labels)

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Raises `InputError` where an image has another size than the annotations state."""
        record = self._ground_truth.images[number]
        found, stated = (image.shape[1], image.shape[0]), (record.width_px, record.height_px)
        if all(stated) and found != stated:
            raise InputError(
                f"{self.paths[number]}: has {found[0]}x{found[1]} pixels, its annotations were made on {stated[0]}x"
                f"{stated[1]}; wanted the images that the annotations belong to, neither resized nor rotated"
            )
