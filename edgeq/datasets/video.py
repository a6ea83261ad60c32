"""A video: its frames, to calibrate on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeq.datasets.folder import DataFolder
from edgeq.datasets.split import WHOLE, AnnotatedImage, DatasetFiles, Split
from edgeq.inputs.images import VIDEO_SUFFIXES
from edgeq.inputs.video import list_frames

TITLE = "video"


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a video file, by its suffix; otherwise `None`."""
    if not path.is_file() or path.suffix.lower() not in VIDEO_SUFFIXES:
        return None
    return DatasetFiles(TITLE, path, {WHOLE: partial(_read, path)})


def _read(file: Path) -> Split:
    frames = tuple(
        AnnotatedImage(number, frame, f"frame {number - 1}") for number, frame in enumerate(list_frames(file), start=1)
    )
    return Split(TITLE, file, WHOLE, frames)
