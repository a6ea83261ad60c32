"""Frames of a video file, read one at a time with PyAV."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import InputError, MissingDependencyError
from edgeq.inputs.items import Pixels

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video, decoded.

    Attributes:
        path: The video.
        index: Its number in the video, from 0.
        pixels: `(H, W, 3)` uint8, RGB, as stored: a rotation that the file asks players for is not applied.
    """

    path: Path
    index: int
    pixels: Pixels

    @property
    def name(self) -> str:
        """The video with the number of the frame."""
        return f"{self.path}, frame {self.index}"

    def digest(self) -> str:
        """Returns the SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def read(self) -> Pixels:
        """Returns the pixels."""
        return self.pixels


def video_frames(path: Path, every: int) -> Iterator[VideoFrame]:
    """Yields every so many-th frame of a video, from the first on; one that breaks off ends early, with a warning.

    Raises:
        InputError: the file is missing, or no video that PyAV can read.
        MissingDependencyError: PyAV is not installed.
    """
    if importlib.util.find_spec("av") is None:
        raise MissingDependencyError("av", "video", f"Reading {path.name}, a video,")
    import av

    if not path.is_file():
        raise InputError(f"{path}: no such video")
    read = 0
    try:
        # A container may name others to be opened; only files are, never addresses of a network.
        with av.open(str(path.resolve()), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise InputError(f"{path}: has no pictures in it; wanted a video")
            for index, frame in enumerate(container.decode(video=0)):
                read = index + 1
                if index % every == 0:
                    yield VideoFrame(path, index, frame.to_ndarray(format="rgb24"))
    except av.FFmpegError as error:
        if not read:
            raise InputError(f"{path}: is not a video that PyAV can read ({error})") from error
        _log.warning("%s: breaks off after %d frames (%s)", path, read, error)
