"""The images that `edgeq predict` runs on: files, or the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import InputError
from edgeq.evaluation.inference import Images
from edgeq.inputs import Item, image_files
from edgeq.inputs.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES, list_images
from edgeq.inputs.items import path_of
from edgeq.inputs.video import list_frames
from edgeq.tasks import Task
from edgeq.tasks.labelled_images import relative_names

Pixels = NDArray[np.uint8]

# What Pillow cannot write, or not in colour, becomes a PNG next to its old suffix.
_WRITABLE = IMAGE_SUFFIXES - {".gif", ".pgm"}


class ShownImages(Images, Protocol):
    """Images whose names, sizes and pixels are known once they were run."""

    def name(self, number: int) -> str:
        """Returns the name of an image: a path with `/` between its parts, unique, that a picture may have."""

    def size_px(self, number: int) -> tuple[int, int]:
        """Returns width and height of an image that was run."""

    def pixels(self, number: int) -> Pixels:
        """Returns an image `(H, W, 3)`, RGB, that was run; asked once at most."""


class Files:
    """Image files, or the images of a data set; see `ShownImages`.

    Args:
        items: The images.
        names: The name of each.
        dataset: The truth about them, in the same order; `None` if it is not known.
    """

    max_unreadable = 1.0

    def __init__(self, items: Sequence[Item], names: Sequence[str], dataset: Task[Any] | None = None) -> None:
        self.items = items
        self.paths = tuple(map(path_of, items))
        self.dataset = dataset
        self._names = [name if Path(name).suffix.lower() in _WRITABLE else f"{name}.png" for name in names]
        self._sizes_px: dict[int, tuple[int, int]] = {}
        if len(set(self._names)) < len(self._names):
            twice = next(name for name in self._names if self._names.count(name) > 1)
            raise InputError(f"two of the images are called {twice}; give their folders in separate commands")

    def check_image(self, number: int, image: Pixels) -> None:
        """Notes the size; raises `InputError` for what is not an image, or not the one of the annotations."""
        if image.dtype != np.uint8:
            raise InputError(f"{self.paths[number]}: is an input that is prepared, which cannot be drawn; give images")
        self.note_size(number, (image.shape[1], image.shape[0]))
        if self.dataset is not None:
            self.dataset.check_image(number, image)

    def note_size(self, number: int, size_px: tuple[int, int]) -> None:
        """Takes the width and height of an image that an earlier run has seen."""
        self._sizes_px[number] = size_px

    def name(self, number: int) -> str:
        """Returns the path in its folder; of a format that is not written with `.png` behind it."""
        return self._names[number]

    def size_px(self, number: int) -> tuple[int, int]:
        """Returns width and height."""
        return self._sizes_px[number]

    def pixels(self, number: int) -> Pixels:
        """Returns the image, read again: many are between the first reading and this one on a device."""
        return cast(Pixels, self.items[number].read())


class Part:
    """Some of the images of `Files`, under new positions; see `edgeq.evaluation.inference.Images`.

    Args:
        whole: All images.
        numbers: Positions of those that are meant.
    """

    max_unreadable = 1.0

    def __init__(self, whole: Files, numbers: Sequence[int]) -> None:
        self.items = [whole.items[number] for number in numbers]
        self.paths = [whole.paths[number] for number in numbers]
        self._whole = whole
        self._numbers = numbers

    def check_image(self, number: int, image: Pixels) -> None:
        """Notes the size; raises `InputError` if the annotations are of another image."""
        self._whole.check_image(self._numbers[number], image)


class Video:
    """Frames of a video, which are kept from their decoding until their pixels are asked for; see `ShownImages`.

    Args:
        path: The file.
        every: Every so many-th frame is taken.

    Attributes:
        items: The frames, none of them decoded yet.
    """

    max_unreadable = 1.0

    def __init__(self, path: Path, every: int) -> None:
        self.paths = (path,)
        self.items: Sequence[Item] = list_frames(path)[::every]
        self._every = every
        self._pixels: dict[int, Pixels] = {}
        self._sizes_px: dict[int, tuple[int, int]] = {}

    def check_image(self, number: int, image: Pixels) -> None:
        """Keeps the frame."""
        self._pixels[number] = image
        self._sizes_px[number] = (image.shape[1], image.shape[0])

    def name(self, number: int) -> str:
        """Returns the name of the video's folder and of the frame, with its number in the video."""
        return f"{self.paths[0].stem}/frame_{number * self._every:06d}.jpg"

    def size_px(self, number: int) -> tuple[int, int]:
        """Returns width and height."""
        return self._sizes_px[number]

    def pixels(self, number: int) -> Pixels:
        """Returns the frame, and lets it go."""
        return self._pixels.pop(number)


def find_images(sources: Sequence[Path], every: int | None) -> Files | Video:
    """Returns the images that sources stand for.

    Args:
        sources: Image files, folders and text files of paths; or one video.
        every: Of a video, every so many-th frame is taken.

    Raises:
        InputError: there is nothing, a camera is meant, a video comes with other sources, or `every` without a video.
    """
    for source in sources:
        if str(source).startswith(("camera:", "/dev/video")):
            raise InputError(
                f"{source}: is a camera, which edgeq does not read; record a video, for example with "
                "`ffmpeg -f v4l2 -i /dev/video0 -t 10 video.mp4`, and give that"
            )
    videos = [source for source in sources if source.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        if len(sources) > 1:
            raise InputError(f"{videos[0]}: is a video; give it alone")
        return Video(videos[0], every or 1)
    if every is not None:
        raise InputError("`every` is for the frames of a video; omit it")
    paths: list[Path] = []
    names: list[str] = []
    for source in sources:
        single = source.suffix.lower() in IMAGE_SUFFIXES and not source.is_dir()
        found = [source] if single else list_images(source)
        if single and not source.is_file():
            raise InputError(f"{source}: no such image")
        paths += found
        names += relative_names(found, source if source.is_dir() else source.parent)
    return Files(image_files(paths), names)
