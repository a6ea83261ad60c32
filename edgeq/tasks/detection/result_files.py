"""Detections as other programs read them: YOLO's text files, and COCO's results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json, write_text
from edgeq.tasks.evidence import Box, Finding
from edgeq.tasks.result_files import ResultFile

if TYPE_CHECKING:
    from edgeq.tasks.base import Task


class YoloText(ResultFile):
    """`labels/NAME.txt` for each image, as YOLO's tools write them, and the class names in `classes.txt`.

    A line is class index, centre, width and height as shares of the image's sides, and score.
    """

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Writes the file of an image; an empty one says that nothing was found."""
        width, height = size_px
        lines = [
            f"{box.class_index} {(box.left + box.width / 2) / width:.6f} {(box.top + box.height / 2) / height:.6f} "
            f"{box.width / width:.6f} {box.height / height:.6f} {box.score:.6f}\n"
            for box in findings
            if isinstance(box, Box)
        ]
        write_text(self.out / "labels" / Path(name).with_suffix(".txt"), "".join(lines))

    def close(self) -> None:
        """Writes the class names, one per line."""
        if self.artifact.labels:
            write_text(self.out / "classes.txt", "".join(f"{label}\n" for label in self.artifact.labels))


class CocoResults(ResultFile):
    """`results.json`: COCO's list of detections, with the ids of images and categories of the annotations."""

    def __init__(self, artifact: Artifact, dataset: Task[Any] | None, out: Path) -> None:
        from edgeq.tasks.detection.task import DetectionTask

        super().__init__(artifact, dataset, out)
        if not isinstance(dataset, DetectionTask):
            raise InputError(
                "`format` coco names images and classes by the ids of an annotation file; give `annotations`"
            )
        self._image_ids, self._categories = dataset.image_ids, dataset.categories(artifact)
        self._results: list[dict[str, Any]] = []

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Takes the detections of an image."""
        self._results += [
            {
                "image_id": self._image_ids[number],
                "category_id": self._categories[box.class_index],
                "bbox": [box.left, box.top, box.width, box.height],
                "score": box.score,
            }
            for box in findings
            if isinstance(box, Box)
        ]

    def close(self) -> None:
        """Writes the list."""
        write_json(self.out / "results.json", self._results)
