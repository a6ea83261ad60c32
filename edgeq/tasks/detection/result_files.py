"""Findings of detectors as other programs read them: YOLO's text files, and COCO's results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json, write_text
from edgeq.tasks.evidence import Box, Finding
from edgeq.tasks.result_files import ResultFile

if TYPE_CHECKING:
    from edgeq.tasks.base import Task


class YoloFiles(ResultFile):
    """`labels/NAME.txt` for each image, as YOLO's tools write them, and the class names in `classes.txt`.

    A line is class index, what the task writes of an object as shares of the image's sides, and score.
    """

    @abstractmethod
    def numbers(self, finding: Finding, size_px: tuple[int, int]) -> Sequence[float]:
        """Returns what stands between class index and score of a line; nothing for what cannot be written."""

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Writes the file of an image; an empty one says that nothing was found."""
        lines = []
        for finding in findings:
            numbers = self.numbers(finding, size_px)
            if numbers:
                cells = " ".join(f"{value:.6f}" for value in (*numbers, finding.score or 0.0))
                lines.append(f"{finding.class_index} {cells}\n")
        write_text(self.out / "labels" / Path(name).with_suffix(".txt"), "".join(lines))

    def close(self) -> None:
        """Writes the class names, one per line."""
        if self.artifact.labels:
            write_text(self.out / "classes.txt", "".join(f"{label}\n" for label in self.artifact.labels))


class YoloBoxes(YoloFiles):
    """Boxes: centre, width and height."""

    def numbers(self, finding: Finding, size_px: tuple[int, int]) -> Sequence[float]:
        """Returns centre, width and height."""
        if not isinstance(finding, Box):
            return ()
        return shares((finding.left, finding.top, finding.width, finding.height), size_px)


def shares(box: tuple[float, float, float, float], size_px: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns centre, width and height of a box (left, top, width, height) as shares of an image's sides."""
    left, top, width, height = box
    wide, high = size_px
    return (left + width / 2) / wide, (top + height / 2) / high, width / wide, height / high


class CocoResults(ResultFile):
    """`results.json`: COCO's list of results, with the ids of images and categories of the annotations."""

    def __init__(self, artifact: Artifact, dataset: Task[Any] | None, out: Path) -> None:
        from edgeq.tasks.detection.coco_task import CocoTask

        super().__init__(artifact, dataset, out)
        if not isinstance(dataset, CocoTask):
            raise InputError(
                "`format` coco names images and classes by the ids of an annotation file; give `annotations` or `data`"
            )
        self._image_ids, self._categories = dataset.image_ids, dataset.categories(artifact)
        self._results: list[dict[str, Any]] = []

    @abstractmethod
    def shape(self, finding: Finding) -> dict[str, Any]:
        """Returns the keys of a result that say where it is; nothing for what cannot be written."""

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Takes the results of an image."""
        self._results += self._of_image(number, findings)

    def _of_image(self, number: int, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
        for finding in findings:
            if shape := self.shape(finding):
                category = self._categories[finding.class_index]
                yield {"image_id": self._image_ids[number], "category_id": category, **shape, "score": finding.score}

    def close(self) -> None:
        """Writes the list."""
        write_json(self.out / "results.json", self._results)


class CocoBoxes(CocoResults):
    """Boxes: left, top, width and height in pixels."""

    def shape(self, finding: Finding) -> dict[str, Any]:
        """Returns the box."""
        if not isinstance(finding, Box):
            return {}
        return {"bbox": [finding.left, finding.top, finding.width, finding.height]}
