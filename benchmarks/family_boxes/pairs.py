"""What a family's decoder and its reference found in the same outputs, and how far apart they are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.images import read_image
from edgeq.inputs.preprocessing import Placement, preprocess
from edgeq.inputs.presets import Preset, load_preset
from edgeq.tasks import find_decoder


@dataclass(frozen=True)
class Tolerance:
    """How far apart boxes may be that count as the same.

    Attributes:
        score: Two programs in float32 are closer than the default.
        pixels: A box further away is another one.
    """

    score: float = 1e-5
    pixels: float = 0.5


@dataclass(frozen=True, eq=False)
class Boxes:
    """Objects in one image.

    Attributes:
        places: `(N, K)`: left, top, right and bottom in the image's pixels, or K coordinates of another form.
        scores: `(N,)`.
        classes: `(N,)` indices.
    """

    places: NDArray[np.floating]
    scores: NDArray[np.floating]
    classes: NDArray[np.integer]

    def cut(self, image: NDArray[np.uint8]) -> Boxes:
        """Returns the same with boxes cut at the image's edges, as every decoder of edgeq cuts them."""
        height, width = image.shape[:2]
        return Boxes(np.clip(self.places, 0, [width, height] * 2), self.scores, self.classes)


@dataclass(frozen=True)
class Setting:
    """What a reference is given.

    Attributes:
        images: Files of the images.
        seed: Of random weights.
        data: Folder of the real data, which holds trained models.
        work: Folder for files that the reference's package writes.
    """

    images: tuple[Path, ...]
    seed: int
    data: Path
    work: Path

    def opened(self, preset: str, size: tuple[int, int] | None = None) -> Iterator[Opened]:
        """Yields each image as a preset prepares it."""
        loaded = load_preset(preset, size)
        for path in self.images:
            image = read_image(path)
            taken, placement = preprocess(image, loaded.preprocessing)
            yield Opened(image, taken, placement, loaded)


@dataclass(frozen=True, eq=False)
class Opened:
    """An image as a preset prepares it.

    Attributes:
        image: `(H, W, 3)` uint8, RGB.
        input: `(1, C, h, w)` float32.
        placement: Where the image lies in the input.
        preset: The preset.
    """

    image: NDArray[np.uint8]
    input: NDArray[np.float32]
    placement: Placement
    preset: Preset

    @property
    def post(self) -> Postprocessing:
        """How the preset reads outputs."""
        assert self.preset.postprocessing is not None
        return self.preset.postprocessing


Pair = tuple[Boxes, Boxes]
"""What edgeq's decoder found in an image, and what the reference found."""
Reference = Callable[[Setting], Iterable[Pair]]


def decode(outputs: dict[str, NDArray[Any]], post: Postprocessing, placement: Placement) -> Boxes:
    """Returns the boxes that edgeq's decoder finds."""
    found = find_decoder(post).decode(outputs, post, placement)
    return Boxes(found.boxes, found.scores, found.classes)


@dataclass(frozen=True)
class Tally:
    """How far a decoder and its reference are apart.

    Attributes:
        images: Images.
        equal: Images in which both find the same boxes, and no others.
        boxes: Boxes of the reference.
        both: How many of them edgeq finds, too: of the same class and score, no further away than allowed.
        pixels: Median and maximum, over images with such boxes, of their largest difference of a coordinate.
    """

    images: int
    equal: int
    boxes: int
    both: int
    pixels: tuple[float, float]


def tally(pairs: Iterable[Pair], tolerance: Tolerance) -> Tally:
    """Returns the sum over images; boxes are matched by class and score, then by place."""
    images = equal = boxes = both = 0
    pixels = []
    for found, wanted in pairs:
        distances = _distances(found, wanted, tolerance)
        images += 1
        equal += len(distances) == len(found.scores) == len(wanted.scores)
        boxes += len(wanted.scores)
        both += len(distances)
        if distances:
            pixels.append(max(distances))
    return Tally(images, equal, boxes, both, (float(np.median(pixels)), max(pixels)) if pixels else (0.0, 0.0))


def _distances(found: Boxes, wanted: Boxes, tolerance: Tolerance) -> list[float]:
    """Returns the largest difference of a coordinate of each box that both have."""
    free = np.ones(len(wanted.scores), bool)
    distances = []
    for place, score, label in zip(found.places, found.scores, found.classes, strict=True):
        same = np.flatnonzero(free & (wanted.classes == label) & (np.abs(wanted.scores - score) < tolerance.score))
        if not len(same):
            continue
        apart = np.abs(wanted.places[same] - place).max(axis=1)
        if apart.min() <= tolerance.pixels:
            free[same[apart.argmin()]] = False
            distances.append(float(apart.min()))
    return distances


def package(name: str) -> Any:
    """Returns a module that type checkers do not know."""
    return importlib.import_module(name)
