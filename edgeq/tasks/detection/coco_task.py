"""What the tasks on COCO annotation files share: boxes, masks and keypoints of objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.inputs.images import existing_images
from edgeq.inputs.items import ImageFile, Item
from edgeq.tasks.base import Prediction, Task
from edgeq.tasks.detection.categories import category_ids, report_categories
from edgeq.tasks.detection.coco import load_ground_truth
from edgeq.tasks.detection.coco_engine import check_engine


class CocoTask(Task[Prediction]):
    """A task whose images and objects a COCO annotation file lists."""

    def __init__(self, annotations: Path | None, images_dir: Path, engine: str) -> None:
        if annotations is None:
            raise InputError(f"models for {self.name} are scored on a COCO annotation file; give `annotations`")
        check_engine(engine)
        self._engine = engine
        self._ground_truth = load_ground_truth(annotations)
        self.source = annotations
        names = [record.file_name for record in self._ground_truth.images]
        self.paths = existing_images(annotations, images_dir, names)
        self._items: Sequence[Item] = [
            ImageFile(path, (record.width_px, record.height_px))
            for path, record in zip(self.paths, self._ground_truth.images, strict=True)
        ]

    @property
    def items(self) -> Sequence[Item]:
        """The images as they are read: upright, unless the annotations state the size of one that lies."""
        return self._items

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
