"""A procedurally drawn COCO-format data set: six shapes on cluttered, noisy backgrounds.

It stands in for real data where none can be downloaded: the demo, the tests and the training of the shipped detector.
Image `i` of seed `s` depends on `(s, i)` alone. Only integer draws, single IEEE operations and coordinates that are
rounded to a grid enter the pixels, and no library draws them, so that every machine draws the same ones; the files are
PNG for the same reason.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from edgeq.boundary import read_json
from edgeq.errors import InputError
from edgeq.files import write_json
from edgeq.progress import progress_bar
from edgeq.tasks.detection.rasterising import SUBPIXELS, GridOutline, rasterise

CATEGORIES = ("ellipse", "rectangle", "triangle", "star", "ring", "cross")

_GENERATOR = "edgeq.tasks.detection.shapes"
_VERSION = 2  # raise it with every change that moves a pixel or a box
_SMALLEST, _LARGEST = 24, 320  # diameters in pixels before stretching
_LEAST_VISIBLE = 0.85  # part of every shape that stays inside the image and in front of the others
_LEAST_CONTRAST = 150  # sum over the three channels of |shape - background|

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class DrawnImage:
    """One image and what is in it.

    Attributes:
        pixels: `(H, W, 3)` uint8, RGB.
        instances: `(H, W)` uint8; 0 is background, `i + 1` the visible pixels of object `i`.
        labels: `(N,)` indices into `CATEGORIES`.
        boxes: `(N, 4)` x, y, width, height in pixels, tight around the visible pixels.
        areas: `(N,)` numbers of visible pixels.
    """

    pixels: NDArray[np.uint8]
    instances: NDArray[np.uint8]
    labels: IntArray
    boxes: IntArray
    areas: IntArray


def draw_shapes_dataset(folder: Path, images: int, seed: int) -> Path:
    """Draws a data set and returns its annotation file, `folder/annotations.json`; the images lie beside it.

    The folder appears whole or not at all. Where it already holds the same set, nothing is drawn.

    Args:
        folder: Where the set goes; must not exist, be empty, or hold the same set.
        images: How many images, at least 1.
        seed: Not negative. A set of more images begins with the images of a smaller one of the same seed.

    Raises:
        InputError: a number is out of range, the folder holds something else, or it cannot be written.
    """
    if images < 1 or seed < 0:
        raise InputError(f"a drawn data set of {images} images with seed {seed}: wanted images >= 1 and seed >= 0")
    info = {"description": "drawn shapes", "generator": _GENERATOR, "version": _VERSION, "images": images, "seed": seed}
    annotations = folder / "annotations.json"
    if _is_complete(folder, info):
        return annotations
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder}: holds something else than {images} drawn images of seed {seed}; "
                "remove it or name another folder"
            )
        # Not mkdtemp, whose folders only the owner can read: a result should follow the user's umask.
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        _write_dataset(temporary, images, seed, info)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return annotations


def draw_image(seed: int, index: int) -> DrawnImage:
    """Returns image `index` of the set that `seed` names: 208 to 336 pixels a side, up to twelve shapes."""
    rng = np.random.default_rng([seed, index])
    height, width = (int(side) for side in rng.integers(208, 337, 2))
    scene = _Scene(_background(rng, height, width))
    for _ in range(rng.integers(2, 12)):
        _draw_clutter(scene.canvas, rng)
    for _ in range(rng.integers(4, 13)):
        scene.place_shape(int(rng.integers(len(CATEGORIES))), rng)
    pixels = _photograph(scene.canvas, rng)
    boxes = [_tight_box(scene.instances == number) for number in range(1, len(scene.labels) + 1)]
    areas = np.bincount(scene.instances.ravel(), minlength=len(boxes) + 1)[1:]
    return DrawnImage(
        pixels,
        scene.instances,
        np.array(scene.labels, np.int64),
        np.array(boxes, np.int64).reshape(-1, 4),
        areas.astype(np.int64),
    )


class _DrawnImage(msgspec.Struct):
    file_name: str


class _Drawn(msgspec.Struct):
    info: dict[str, Any]
    images: list[_DrawnImage]


def _is_complete(folder: Path, info: dict[str, Any]) -> bool:
    try:
        found = read_json(folder / "annotations.json", _Drawn, kind="a drawn data set")
    except InputError:
        return False
    return found.info == info and all((folder / image.file_name).is_file() for image in found.images)


def _write_dataset(folder: Path, images: int, seed: int, info: dict[str, Any]) -> None:
    from PIL import Image

    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with progress_bar(images, "drawing shapes") as advance:
        for index in range(images):
            drawn = draw_image(seed, index)
            name = f"{index:06d}.png"
            Image.fromarray(drawn.pixels).save(folder / name, compress_level=1)
            height, width = drawn.instances.shape
            records.append({"id": index + 1, "file_name": name, "width": width, "height": height})
            for label, box, area in zip(drawn.labels, drawn.boxes, drawn.areas, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": int(label) + 1,
                        "bbox": box.tolist(),
                        "area": int(area),
                        "iscrowd": 0,
                    }
                )
            advance(1)
    categories = [{"id": number, "name": name} for number, name in enumerate(CATEGORIES, 1)]
    write_json(
        folder / "annotations.json",
        {"info": info, "images": records, "annotations": annotations, "categories": categories},
    )


def _background(rng: Generator, height: int, width: int) -> FloatArray:
    """Returns a colour, a gradient, a soft random texture and sometimes stripes: `(H, W, 3)`, about 0 to 255."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = rng.integers(40, 216, 3)
    slopes = rng.integers(-60, 61, (2, 3)).astype(np.float32)
    canvas += slopes[0] * (rows / height - 0.5)[..., None] + slopes[1] * (columns / width - 0.5)[:, None]
    for cells in (int(rng.integers(3, 8)), int(rng.integers(16, 40))):
        canvas += int(rng.integers(0, 40)) * _soft_noise(rng, cells, height, width)[..., None]
    if rng.integers(3) == 0:
        period, slope = (int(value) for value in rng.integers(6, 24, 2))
        stripes = (columns * 4 + rows * (slope - 15)) % (8 * period) < 4 * period
        canvas += stripes[..., None] * rng.integers(-30, 31, 3).astype(np.float32)
    return canvas


def _soft_noise(rng: Generator, cells: int, height: int, width: int) -> FloatArray:
    """Returns smooth noise `(H, W)` in -1 to 1, interpolated between `cells + 1` values along each side."""
    grid = rng.integers(-127, 128, (cells + 1, cells + 1)).astype(np.float32) / np.float32(127)
    return _interpolate(_interpolate(grid, height).T, width).T


def _interpolate(values: FloatArray, length: int) -> FloatArray:
    """Returns `(length, M)` values between the `(N, M)` given ones, with no kinks."""
    position = np.arange(length, dtype=np.float32) * np.float32((len(values) - 1) / length)
    cell = position.astype(np.int64)
    fraction = (position - cell.astype(np.float32))[:, None]
    weight = fraction * fraction * (3 - 2 * fraction)
    between: FloatArray = values[cell] + weight * (values[cell + 1] - values[cell])
    return between


def _draw_clutter(canvas: FloatArray, rng: Generator) -> None:
    """Draws a line, an arc or an irregular blob: things with edges that belong to no class."""
    height, width = canvas.shape[:2]
    x, y = int(rng.integers(width)), int(rng.integers(height))
    kind = rng.integers(3)
    if kind == 0:
        outline = _stroke([(0.0, 0.0), (float(rng.integers(width) - x), float(rng.integers(height) - y))], rng)
    elif kind == 1:
        start, steps = int(rng.integers(48)), int(rng.integers(4, 24))
        circle = _polar([float(rng.integers(10, 80))] * 48)
        outline = _stroke((circle * 2)[start : start + steps], rng)
    else:
        outline = _polar([reach * float(rng.integers(4, 13)) for reach in [rng.random() * 4 + 0.5] * 9])
    coverage, left, top = rasterise([_on_grid(outline)])
    window, inside = _clip(coverage, x + left, y + top, height, width)
    _blend(canvas[window], inside, canvas[y, x] + rng.integers(-110, 111, 3).astype(np.float32))


class _Scene:
    """A canvas, and which object each of its pixels shows."""

    def __init__(self, canvas: FloatArray) -> None:
        self.canvas = canvas
        self.instances = np.zeros(canvas.shape[:2], np.uint8)
        self.labels: list[int] = []
        # By instance number; 0 is background.
        self._full_areas = [0]
        self._visible_areas: IntArray = np.array([self.instances.size], np.int64)

    def place_shape(self, label: int, rng: Generator) -> None:
        """Draws a shape somewhere where it hides little of the others, unless eight tries find no such place."""
        height, width = self.canvas.shape[:2]
        limit = min(_LARGEST, 0.8 * min(height, width))
        for _ in range(8):
            # Log-uniform, so that every octave of sizes is as frequent as the next.
            diameter = round(_SMALLEST * math.exp(rng.random() * math.log(limit / _SMALLEST)))
            coverage, left, top = rasterise(_shape(CATEGORIES[label], diameter, rng))
            x, y = int(rng.integers(width)), int(rng.integers(height))
            window, inside = _clip(coverage, x + left, y + top, height, width)
            solid = inside >= 0.5
            full_areas = [*self._full_areas, int((coverage >= 0.5).sum())]
            visible_areas = self._visible_with(window, solid)
            if (visible_areas[1:] >= _LEAST_VISIBLE * np.array(full_areas[1:])).all():
                self.labels.append(label)
                self._full_areas, self._visible_areas = full_areas, visible_areas
                self.instances[window][solid] = len(self.labels)
                _blend(self.canvas[window], inside, _fill(self.canvas[window], inside, rng))
                return

    def _visible_with(self, window: Window, solid: NDArray[np.bool_]) -> IntArray:
        """Returns how many pixels of each object stay visible behind a new one, which comes last."""
        covered = np.bincount(self.instances[window][solid], minlength=len(self._visible_areas))
        return np.append(self._visible_areas - covered, np.count_nonzero(solid))


Outline = list[tuple[float, float]]
Window = tuple[slice, slice]


def _polar(radii: Sequence[float], start: float = 0.0) -> Outline:
    """Returns points at equal angles around the origin."""
    angles = [start + 2 * math.pi * step / len(radii) for step in range(len(radii))]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in zip(radii, angles, strict=True)]


def _cross(arm: float) -> Outline:
    corners = [(1.0, arm), (arm, arm), (arm, 1.0)]
    return [(x * cosine - y * sine, x * sine + y * cosine) for cosine, sine in _QUARTERS for x, y in corners]


_QUARTERS = ((1, 0), (0, 1), (-1, 0), (0, -1))

# Outlines around the origin, about one unit in radius: the border, then the border of a hole.
_OUTLINES: dict[str, Callable[[Generator], list[Outline]]] = {
    "ellipse": lambda _rng: [_polar([1.0] * 64)],
    "rectangle": lambda _rng: [_polar([1.0] * 4, math.pi / 4)],
    "triangle": lambda _rng: [_polar([1.0] * 3)],
    "star": lambda rng: [_polar([1.0, 0.4 + 0.1 * rng.random()] * 5)],
    "ring": lambda rng: [_polar([1.0] * 64), _polar([0.5 + 0.2 * rng.random()] * 64)],
    "cross": lambda rng: [_cross(0.25 + 0.15 * rng.random())],
}


def _shape(kind: str, diameter: int, rng: Generator) -> list[GridOutline]:
    """Returns the outlines of a stretched and turned shape around the origin."""
    stretch = math.exp((rng.random() - 0.5) * math.log(1.5))
    angle = rng.random() * 2 * math.pi
    cosine, sine, radius = math.cos(angle), math.sin(angle), diameter / 2
    outlines = []
    for outline in _OUTLINES[kind](rng):
        points = [(radius * x * stretch, radius * y / stretch) for x, y in outline]
        outlines.append(_on_grid([(x * cosine - y * sine, x * sine + y * cosine) for x, y in points]))
    return outlines


def _stroke(path: Outline, rng: Generator) -> Outline:
    """Returns the outline of a pen's stroke, one to five pixels wide, along a path."""
    (x0, y0), (x1, y1) = path[0], path[-1]
    length = math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2) or 1.0
    pen = float(rng.integers(1, 6)) / length
    across = (pen * (y0 - y1), pen * (x1 - x0))
    return path + [(x + across[0], y + across[1]) for x, y in reversed(path)]


def _on_grid(outline: Outline) -> GridOutline:
    return [(round(SUBPIXELS * x), round(SUBPIXELS * y)) for x, y in outline]


def _clip(coverage: FloatArray, left: int, top: int, height: int, width: int) -> tuple[Window, FloatArray]:
    """Returns the part of an image that a tile at `left`, `top` touches, and the part of the tile inside the image."""
    rows, columns = coverage.shape
    window = (slice(max(top, 0), max(top + rows, 0)), slice(max(left, 0), max(left + columns, 0)))
    return window, coverage[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]


def _fill(background: FloatArray, coverage: FloatArray, rng: Generator) -> FloatArray:
    """Returns a colour that stands out from what it covers, as a gradient `(h, w, 3)`."""
    weights = coverage[..., None]
    behind = (background * weights).sum((0, 1), dtype=np.float64) / weights.sum(dtype=np.float64)
    colour = rng.integers(0, 256, 3)
    while abs(colour - behind).sum() < _LEAST_CONTRAST:
        colour = rng.integers(0, 256, 3)
    rows = np.linspace(-0.5, 0.5, len(coverage), dtype=np.float32)[:, None, None]
    return colour.astype(np.float32) + rows * rng.integers(-50, 51, 3).astype(np.float32)


def _blend(canvas: FloatArray, coverage: FloatArray, paint: FloatArray) -> None:
    """Lays `paint` over `canvas` `(h, w, 3)` in place where `coverage` `(h, w)` says so."""
    canvas += coverage[..., None] * (paint - canvas)


def _photograph(canvas: FloatArray, rng: Generator) -> NDArray[np.uint8]:
    """Returns what a poor camera sees: blur, less contrast, another brightness, noise; `(H, W, 3)` uint8."""
    for _ in range(rng.integers(3)):
        canvas = _blur(_blur(canvas).swapaxes(0, 1)).swapaxes(0, 1)
    contrast = np.float32(0.6 + 0.45 * rng.random())
    canvas = (canvas - 128) * contrast + 128 + int(rng.integers(-30, 31))
    amplitude = int(rng.integers(0, 13))
    # The sum of two uniform draws is close enough to a sensor's noise, and integers are the same everywhere.
    noise = rng.integers(-amplitude, amplitude + 1, (2, *canvas.shape), dtype=np.int8).sum(0, dtype=np.int16)
    pixels: NDArray[np.uint8] = np.rint(canvas + noise).clip(0, 255).astype(np.uint8)
    return pixels


def _blur(canvas: FloatArray) -> FloatArray:
    """Returns the canvas smoothed along its first axis by 1 2 1."""
    padded = np.concatenate([canvas[:1], canvas, canvas[-1:]])
    smooth: FloatArray = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return smooth


def _tight_box(visible: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Returns x, y, width, height around the true pixels."""
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def _cannot_write(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: cannot be written ({error.strerror or error}); nothing was left behind, choose another folder"
    )
