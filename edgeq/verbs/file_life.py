"""`edgeq inspect` of a file with a manifest: where it comes from, what was decided, and where it ran at what cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.exporting.artifact import Artifact
from edgeq.results.attached import AttachedResult, attached_to
from edgeq.results.serialization import RESULTS_VERSION, to_json


@dataclass(frozen=True)
class FileLife:
    """The life of a file.

    Attributes:
        artifact: The file.
        results: What `attach` kept in its manifest.
    """

    artifact: Artifact
    results: tuple[AttachedResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest's content, with size and results."""
        return {
            "results_version": RESULTS_VERSION,
            "artifact": self.artifact.name,
            "size_bytes": self.artifact.size_bytes,
            "manifest": self.artifact.to_json(),
            "results": [to_json(each) for each in self.results],
        }


def read_life(path: Path) -> FileLife:
    """Returns the life of a file, as its manifest says it.

    Raises:
        InputError: there is no manifest, or it cannot be read.
        MismatchError: the file is not the one that the manifest describes.
    """
    artifact = Artifact.load(path)
    return FileLife(artifact, attached_to(artifact))
