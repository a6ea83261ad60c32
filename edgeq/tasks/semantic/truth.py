"""The true class of every pixel: from masks in a folder, or from objects or segments of a COCO file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import Integer, read_json
from edgeq.errors import InputError
from edgeq.inputs.images import existing_images, list_images
from edgeq.tasks.maps import opened_map
from edgeq.tasks.masks import decode, to_rle
from edgeq.tasks.semantic.class_map import IGNORED

_BACKGROUND = ("background", "__background__", "_background_")
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
_WANTED = "a folder of masks (.png of class indices), or a COCO file with polygons or panoptic segments"


class PixelTruth(ABC):
    """Images and the true class of their pixels, which are read when an image is scored.

    Attributes:
        source: The folder or file.
        paths: The images.
    """

    source: Path
    paths: Sequence[Path]

    @abstractmethod
    def size_px(self, number: int) -> tuple[int, int] | None:
        """Returns width and height of an image's truth; `None` if they are not stated.

        Raises:
            InputError: the mask is missing or cannot be read.
        """

    @abstractmethod
    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the class index of every pixel `(H, W)`, `IGNORED` where none counts.

        Args:
            number: Position of the image.
            labels: The model's class names, by index.

        Raises:
            InputError: the truth cannot be read, or has other classes than the model.
        """

    @abstractmethod
    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises `InputError` if the classes of a model and of the truth cannot be matched."""


def load_pixel_truth(annotations: Path | None, images_dir: Path) -> PixelTruth:
    """Returns images with their truth.

    Args:
        annotations: A folder of masks that lie as the images lie in `images_dir`; a COCO file whose annotations have
            polygons or RLE; or a COCO panoptic file, whose masks lie in a folder of its name next to it.
        images_dir: Folder of the images.

    Raises:
        InputError: the truth is missing, or of another form.
    """
    if annotations is None:
        raise InputError(f"segmentation is scored on masks; give `annotations`: {_WANTED}")
    if annotations.is_dir():
        return MaskFolder(annotations, images_dir)
    file = read_json(annotations, _File, kind=_WANTED)
    if not file.images or not file.annotations:
        raise InputError(f"{annotations}: lists no images or no annotations; there is nothing to score on")
    kind = PanopticFile if file.annotations[0].segments_info is not None else ObjectFile
    return kind(annotations, images_dir, file)


class MaskFolder(PixelTruth):
    """Masks in files, whose pixels (palette indices or gray values) are class indices, 255 for ignored."""

    def __init__(self, folder: Path, images_dir: Path) -> None:
        self.source, self.paths = folder, list_images(images_dir)
        stems = [folder / path.relative_to(images_dir).with_suffix("") for path in self.paths]
        self._masks = [_mask_of(stem) for stem in stems]
        if not any(path.is_file() for path in self._masks):
            raise InputError(
                f"{folder}: none of the {len(stems)} images of {images_dir} has a mask there (the first would be "
                f"{self._masks[0].name}); wanted masks with the images' names"
            )

    def size_px(self, number: int) -> tuple[int, int] | None:
        """Returns the size of the mask."""
        with opened_map(self._masks[number], "mask") as image:
            return image.width, image.height

    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the mask's pixels."""
        path = self._masks[number]
        mode, pixels = _read_mask(path)
        if mode not in ("1", "L", "P") and not mode.startswith("I"):
            raise InputError(f"{path}: is a mask of mode {mode}; wanted one channel of class indices, not colours")
        highest = int(np.where(pixels == IGNORED, -1, pixels).max())
        if highest >= (len(labels) or IGNORED):
            raise InputError(
                f"{path}: has class {highest}, but the model has {len(labels) or IGNORED} classes (from 0); wanted "
                f"masks of the model's classes, and {IGNORED} for pixels that do not count"
            )
        return pixels.astype(np.uint8)

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises nothing: masks have indices, which are compared with the model's classes when a mask is read."""


class _CocoTruth(PixelTruth):
    """What both forms of COCO files share: categories matched with the model's classes by name."""

    def __init__(self, source: Path, images_dir: Path, file: _File) -> None:
        self.source = source
        self.paths = existing_images(source, images_dir, [image.file_name for image in file.images])
        self._images = file.images
        self._names = {category.id: str(category.name) for category in file.categories}

    def size_px(self, number: int) -> tuple[int, int] | None:
        """Returns the size that the file states."""
        image = self._images[number]
        return None if image.width is None or image.height is None else (int(image.width), int(image.height))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises `InputError` if the file lacks a class of the model, other than the background."""
        if not labels:
            raise InputError(
                f"{self.source}: names its classes, but the model has no names; export it with `labels`, the classes "
                "by index, `background` among them if it has one"
            )
        known = list(self._names.values())
        for label in labels:
            if label not in _BACKGROUND and known.count(label) != 1:
                raise InputError(
                    f"{self.source}: has {known.count(label) or 'no'} categories named {label!r}, which the model "
                    f"knows; found {', '.join(known[:10])}"
                )

    def _background(self, labels: Sequence[str]) -> int:
        return next((labels.index(name) for name in _BACKGROUND if name in labels), IGNORED)

    def _class_of(self, category: int, labels: Sequence[str]) -> int:
        """Returns the class of a category; one that the model does not know is background."""
        name = self._names.get(category)
        if name is None:
            raise InputError(f"{self.source}: an annotation is of category {category}, which the file does not list")
        return labels.index(name) if name in labels else self._background(labels)


class ObjectFile(_CocoTruth):
    """Objects with polygons or RLE, drawn into one map; what two classes share does not count.

    Pixels of no object, and of classes that the model does not know, are background, or do not count if the model has
    none. torchvision's reference scripts ignore shared pixels, too.
    """

    def __init__(self, source: Path, images_dir: Path, file: _File) -> None:
        super().__init__(source, images_dir, file)
        self._objects: dict[int, list[tuple[int, _Annotation]]] = {}
        for number, entry in enumerate(file.annotations, start=1):
            self._objects.setdefault(entry.image_id, []).append((number, entry))

    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the classes of the objects at every pixel."""
        size = self.size_px(number)
        if size is None:
            raise InputError(f"{self.source}: does not state width and height of {self.paths[number].name}")
        width, height = size
        background = self._background(labels)
        drawn = np.full((height, width), background, np.uint8)
        taken = np.zeros((height, width), bool)
        for position, entry in self._objects.get(self._images[number].id, ()):
            place = f"{self.source}: annotation number {position}"
            rle = to_rle(entry.segmentation, width, height, place)
            index = self._class_of(entry.category_id, labels)
            if rle is None or index == background:
                continue
            inside = decode(rle)
            drawn[inside & ~taken] = index
            drawn[inside & taken & (drawn != index)] = IGNORED
            taken |= inside
        return drawn


class PanopticFile(_CocoTruth):
    """Segments of COCO's panoptic form: masks whose colours are ids of segments, each of a category; black is void."""

    def __init__(self, source: Path, images_dir: Path, file: _File) -> None:
        super().__init__(source, images_dir, file)
        self._folder = source.with_suffix("")
        self._segments = {entry.image_id: entry for entry in file.annotations}

    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the classes of the segments at every pixel."""
        entry = self._segments.get(self._images[number].id)
        if entry is None or entry.segments_info is None or entry.file_name is None:
            raise InputError(f"{self.source}: has no segments of {self.paths[number].name}")
        path = self._folder / Path(entry.file_name).name
        mode, colours = _read_mask(path)
        if mode != "RGB":
            raise InputError(f"{path}: is of mode {mode}; wanted RGB, the segments' ids")
        ids = colours @ np.array([1, 1 << 8, 1 << 16])
        known = {each.id: self._class_of(each.category_id, labels) for each in entry.segments_info} | {0: IGNORED}
        found, places = np.unique(ids, return_inverse=True)
        unknown = set(found.tolist()) - known.keys()
        if unknown:
            raise InputError(f"{path}: has a segment {min(unknown)} that {self.source} lacks")
        return np.array([known[each] for each in found.tolist()], np.uint8)[places].reshape(ids.shape)


class _Image(msgspec.Struct):
    id: Integer
    file_name: str
    width: float | None = None
    height: float | None = None


class _Category(msgspec.Struct):
    id: Integer
    name: str | Integer


class _Segment(msgspec.Struct):
    id: Integer
    category_id: Integer


class _Annotation(msgspec.Struct):
    image_id: Integer
    category_id: Integer = 0
    segmentation: Any = None
    file_name: str | None = None
    segments_info: list[_Segment] | None = None


class _File(msgspec.Struct):
    """A COCO file, as far as segmentation needs it."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def _mask_of(stem: Path) -> Path:
    """Returns the mask of that name; of several kinds of file the first that exists."""
    candidates = [stem.with_name(stem.name + suffix) for suffix in _MASK_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _read_mask(path: Path) -> tuple[str, NDArray[np.int64]]:
    """Returns Pillow's mode of a mask and its pixels `(H, W)` or `(H, W, channels)`."""
    with opened_map(path, "mask") as image:
        return image.mode, np.asarray(image).astype(np.int64)
