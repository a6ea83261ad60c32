"""Frames of videos as items: found without decoding, decoded when their turn comes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import InputError, MissingDependencyError
from edgeq.files import sha256_file
from edgeq.inputs.items import Item, Pixels
from edgeq.inputs.preprocessing import FloatArray

_MICROSECONDS = 1_000_000
_LEAST_MISSING_S = 0.5  # a stated length may be rounded

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoFrame:
    """A frame of a video.

    Attributes:
        video: The video it is in.
        time: When it is shown, in the stream's units.
    """

    video: Video
    time: int

    @property
    def name(self) -> str:
        """The video's path and the frame's time."""
        return f"{self.video.path} at {self.time * self.video.unit_s:.3f} s"

    def digest(self) -> str:
        """Returns the SHA-256 of the video and the frame's time: the same frame always has the same."""
        return hashlib.sha256(f"{self.video.digest} {self.time}".encode()).hexdigest()

    def read(self) -> Pixels | FloatArray:
        """Returns the frame `(H, W, 3)`, uint8, RGB.

        Raises:
            InputError: it cannot be decoded.
        """
        return self.video.decode(self.time)


class Video:
    """A video file whose frames are decoded in any order, cheapest in ascending order.

    Attributes:
        path: The file.
        times: When each frame is shown, ascending, in units of the stream.
        unit_s: The unit, in seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._frames: Any = None
        self._last: int | None = None
        with self._refusing(), _opened(path) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
            stated = stream.frames or _stated_frames(container, packets)
        self.unit_s = float(stream.time_base or 1)
        self.times = sorted({int(packet.pts) for packet in packets})
        self._starts = sorted({int(packet.pts) for packet in packets if packet.is_keyframe})
        if not self.times:
            raise InputError(f"{path}: holds no frame")
        if len(packets) < stated:
            _log.warning(
                "%s: holds %d of the %d frames that its head states; it is truncated", path, len(packets), stated
            )

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_file(self.path)

    def decode(self, time: int) -> Pixels:
        """Returns the pixels of a frame.

        Raises:
            InputError: the file is damaged there.
        """
        with self._lock, self._refusing():
            start = max((each for each in self._starts if each <= time), default=self.times[0])
            if self._frames is None or self._last is None or not start <= self._last < time:
                self._frames, self._last = self._decoded_from(start), None
            for frame in self._frames:
                self._last = int(frame.pts) if frame.pts is not None else self._last
                if frame.pts is not None and frame.pts >= time:
                    pixels: Pixels = np.asarray(frame.to_ndarray(format="rgb24"))
                    # A phone held upright films lying frames, and says by how much to turn them.
                    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
            self._frames = None
        raise InputError(f"{self.path}: ends before the frame at {time * self.unit_s:.3f} s; it is truncated")

    def _decoded_from(self, start: int) -> Any:
        """Yields the frames from a key frame on."""
        with _opened(self.path) as container:
            stream = container.streams.video[0]
            container.seek(start, stream=stream)
            yield from container.decode(stream)

    @contextlib.contextmanager
    def _refusing(self) -> Any:
        import av

        try:
            yield
        except (av.FFmpegError, IndexError, ValueError) as error:
            self._frames = None
            said = str(error) or type(error).__name__
            raise InputError(f"{self.path}: cannot be read as a video ({said}); it is damaged or has no picture") from (
                error
            )


def _stated_frames(container: Any, packets: Sequence[Any]) -> int:
    """Returns how many frames fill the length that a file without sound states, or 0; Matroska counts none."""
    if len(container.streams) > 1 or not container.duration or not packets:
        return 0
    ends = [(packet.pts + packet.duration) * packet.time_base for packet in packets if packet.duration]
    if not ends:
        return 0
    missing_s = container.duration / _MICROSECONDS - float(max(ends))
    mean_s = float(max(ends)) / len(packets)
    return len(packets) + (round(missing_s / mean_s) if missing_s > _LEAST_MISSING_S else 0)


def list_frames(path: Path) -> list[Item]:
    """Returns the frames of a video, none of them decoded yet.

    Raises:
        InputError: the file is no video.
        MissingDependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError("av", "video", "Reading videos") from None
    av.logging.set_level(None)
    video = Video(path)
    return [VideoFrame(video, time) for time in video.times]


def _opened(path: Path) -> Any:
    import av

    # A container may name others to be opened; only files are, never addresses of a network.
    return av.open(str(path.resolve()), options={"protocol_whitelist": "file"})
