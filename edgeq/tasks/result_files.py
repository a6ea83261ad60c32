"""Files in which other programs read what a model found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.exporting.artifact import Artifact
from edgeq.tasks.evidence import Finding

if TYPE_CHECKING:
    from edgeq.tasks.base import Task


class ResultFile(ABC):
    """One format; images come in order, and its files are whole when `close` has returned.

    Args:
        artifact: The model.
        dataset: The data set, if annotations were given.
        out: Folder for the files.

    Raises:
        InputError: the format needs annotations, and there are none.
    """

    def __init__(self, artifact: Artifact, dataset: Task[Any] | None, out: Path) -> None:
        self.artifact = artifact
        self.dataset = dataset
        self.out = out

    @abstractmethod
    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Takes all findings of one image, whatever their score.

        Args:
            number: Position of the image.
            name: Its name: a path with `/` between its parts.
            size_px: Its width and height.
            findings: What was found, the best first.
        """

    @abstractmethod
    def close(self) -> None:
        """Writes what is about all images."""
