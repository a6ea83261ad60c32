"""The true class of every pixel: from masks in a folder, or from objects or segments of a COCO file."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.boundary import read_json
from edgeq.datasets.class_names import ClassMatch, match_classes
from edgeq.datasets.coco_file import CocoAnnotation, CocoFile, CocoImage
from edgeq.datasets.map_folders import MASK_SUFFIXES
from edgeq.datasets.split import PixelMap, Split
from edgeq.errors import InputError
from edgeq.inputs.images import existing_images, list_images
from edgeq.inputs.items import Item, image_files
from edgeq.tasks.detection.ground_truth import segmentation_of
from edgeq.tasks.labelled_images import relative_names
from edgeq.tasks.maps import opened_map
from edgeq.tasks.masks import decode, to_rle
from edgeq.tasks.semantic.class_map import BACKGROUND, IGNORED

_WANTED = "a folder of masks (.png of class indices), or a COCO file with polygons or panoptic segments"

_log = logging.getLogger(__name__)


class PixelTruth(ABC):
    """Images and the true class of their pixels, which are read when an image is scored.

    Attributes:
        source: The folder or file that states it.
        items: The images.
        names: What results call each.
    """

    def __init__(self, source: Path, items: Sequence[Item], names: Sequence[str], classes: _Classes) -> None:
        self.source = source
        self.items = items
        self.names = names
        self.classes = classes

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

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raises `InputError` if the truth lacks a class of the model, other than the background.

        Masks whose classes have no names are compared by index when they are read.
        """
        self.classes.check(labels)


class _Classes:
    """Categories of the truth, matched with a model's classes by name.

    Args:
        source: What states them, for errors.
        names: Category -> name; empty if they have none.
        class_map: Class name of a model -> name of a category, as the user says.
    """

    def __init__(self, source: Path, names: Mapping[int, str], class_map: Mapping[str, str]) -> None:
        self.names = names
        self._source = source
        self._class_map = class_map

    def check(self, labels: Sequence[str]) -> None:
        """Raises `InputError` if a class of the model is missing; see `PixelTruth.check_labels`."""
        if not self.names:
            return
        if not labels:
            raise InputError(
                f"{self._source}: names its classes, but the model has no names; export it with `labels`, the classes "
                "by index, `background` among them if it has one"
            )
        matched = self._match(labels)
        if missing := [name for name in matched.model_only if name not in BACKGROUND]:
            raise InputError(
                f"{self._source}: has no categories named {missing[0]!r}, which the model knows; found "
                f"{', '.join([*self.names.values()][:10])}. Score on masks of the model's classes, or join two names "
                "with `map` MODEL=DATA"
            )
        shared = Counter(matched.pairs.values())
        if twice := [name for name, count in shared.items() if count > 1]:
            raise InputError(
                f"`map`: several classes of the model are {twice[0]!r}, which a pixel cannot be compared with"
            )
        if matched.other_names:
            _log.info("%s: %s", self._source.name, matched.describe())

    def index_by_category(self, labels: Sequence[str]) -> dict[int, int]:
        """Returns category -> class index; one that the model does not know is background."""
        pairs = self._match(labels).pairs
        by_name = {data: labels.index(model) for model, data in pairs.items()}
        background = self.background(labels)
        return {category: by_name.get(name, background) for category, name in self.names.items()}

    @staticmethod
    def background(labels: Sequence[str]) -> int:
        """Returns the index of the model's background class, `IGNORED` without one."""
        return next((labels.index(name) for name in BACKGROUND if name in labels), IGNORED)

    def _match(self, labels: Sequence[str]) -> ClassMatch:
        return match_classes(labels, list(self.names.values()), self._class_map)


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
        paths = list_images(images_dir)
        stems = [annotations / path.relative_to(images_dir).with_suffix("") for path in paths]
        masks = [PixelMap(_mask_of(stem)) for stem in stems]
        if not any(mask.path.is_file() for mask in masks):
            raise InputError(
                f"{annotations}: none of the {len(stems)} images of {images_dir} has a mask there (the first would be "
                f"{masks[0].path.name}); wanted masks with the images' names"
            )
        names = relative_names(paths, images_dir)
        return MapTruth(annotations, image_files(paths), names, _Classes(annotations, {}, {}), masks)
    return _from_coco(annotations, read_json(annotations, CocoFile[CocoAnnotation], kind=_WANTED), images_dir)


def pixel_truth_of(split: Split) -> PixelTruth:
    """Returns images of a data set with their truth: maps of pixels, or else the outlines of objects.

    Raises:
        InputError: it has neither.
    """
    mapped = [(image, image.pixel_map) for image in split.images if image.pixel_map is not None]
    classes = _Classes(split.source, split.categories, split.class_map)
    if mapped:
        items, names = [image.item for image, _ in mapped], [image.name for image, _ in mapped]
        return MapTruth(split.source, items, names, classes, [pixel_map for _, pixel_map in mapped])
    objects = [
        [
            (each.category_id, segmentation, f"{image.name}: an object")
            for each in image.objects
            if (segmentation := segmentation_of(each)) is not None
        ]
        for image in split.images
    ]
    if not any(objects):
        raise InputError(
            f"{split.source}: is {split.format} without masks or outlines, which segmentation is scored on; wanted a "
            "folder `masks` next to `images`, COCO or YOLO with polygons, or another `split`, as Pascal VOC's "
            "segmentation-val"
        )
    sizes = [image.size_px for image in split.images]
    names = [image.name for image in split.images]
    return ObjectTruth(split.source, split.items, names, classes, objects, sizes)


def _from_coco(source: Path, file: CocoFile[CocoAnnotation], images_dir: Path) -> PixelTruth:
    """Returns what a COCO file says, of objects or of panoptic maps."""
    if not file.images or not file.annotations:
        raise InputError(f"{source}: lists no images or no annotations; there is nothing to score on")
    names = [image.file_name for image in file.images]
    items = image_files(existing_images(source, images_dir, names))
    classes = _Classes(source, {each.id: str(each.name) for each in file.categories}, {})
    for entry in file.annotations:
        for category in (entry.category_id, *(each.category_id for each in entry.segments_info or ())):
            if category is not None and category not in classes.names:
                raise InputError(f"{source}: an annotation is of category {category}, which the file does not list")
    if file.annotations[0].segments_info is not None:
        entries = {entry.image_id: entry for entry in file.annotations}
        maps = [_panoptic_map(source, image, entries.get(image.id)) for image in file.images]
        return MapTruth(source, items, names, classes, maps)
    objects: dict[int, list[_Object]] = {image.id: [] for image in file.images}
    for number, entry in enumerate(file.annotations, start=1):
        if entry.image_id in objects and entry.category_id is not None:
            place = f"{source}: annotation number {number}"
            objects[entry.image_id].append((entry.category_id, entry.parsed_segmentation(place), place))
    sizes = [image.size_px for image in file.images]
    return ObjectTruth(source, items, names, classes, [objects[image.id] for image in file.images], sizes)


def _panoptic_map(source: Path, image: CocoImage, entry: CocoAnnotation | None) -> PixelMap:
    """Returns the map of an image, whose colours are ids of segments; black is void."""
    if entry is None or entry.segments_info is None or entry.file_name is None:
        raise InputError(f"{source}: has no segments of {image.file_name}")
    path = source.with_suffix("") / Path(entry.file_name).name
    return PixelMap(path, {0: None} | {each.id: each.category_id for each in entry.segments_info})


class MapTruth(PixelTruth):
    """Maps in files: pixels are class indices (of a palette, or gray) and 255 for ignored, or stand for them."""

    def __init__(
        self, source: Path, items: Sequence[Item], names: Sequence[str], classes: _Classes, maps: Sequence[PixelMap]
    ) -> None:
        super().__init__(source, items, names, classes)
        self._maps = maps

    def size_px(self, number: int) -> tuple[int, int] | None:
        """Returns the size of the map."""
        with opened_map(self._maps[number].path, "mask") as image:
            return image.width, image.height

    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the classes of the map's pixels."""
        pixel_map = self._maps[number]
        values = _values(pixel_map)
        if not self.classes.names:
            return _as_indices(pixel_map.path, values, labels)
        index = self.classes.index_by_category(labels)
        stated = pixel_map.categories
        found, places = np.unique(values, return_inverse=True)
        classes = []
        for value in found.tolist():
            if stated is not None and value not in stated:
                raise InputError(f"{pixel_map.path}: has a segment or colour {value} that {self.source} lacks")
            category = stated[value] if stated is not None else None if value == IGNORED else value
            if category is not None and category not in index:
                raise InputError(f"{pixel_map.path}: has class {category}, which {self.source} does not name")
            classes.append(IGNORED if category is None else index[category])
        return np.array(classes, np.uint8)[places].reshape(values.shape)


_Object = tuple[int, Any, str]
"""Category, polygons or RLE as COCO has them, and where it is stated."""


class ObjectTruth(PixelTruth):
    """Objects with polygons or RLE, drawn into one map; what two classes share does not count.

    Pixels of no object, and of classes that the model does not know, are background, or do not count if the model has
    none. torchvision's reference scripts ignore shared pixels, too.
    """

    def __init__(
        self,
        source: Path,
        items: Sequence[Item],
        names: Sequence[str],
        classes: _Classes,
        objects: Sequence[Sequence[_Object]],
        sizes_px: Sequence[tuple[int, int] | None],
    ) -> None:
        super().__init__(source, items, names, classes)
        self._objects = objects
        self._sizes_px = sizes_px

    def size_px(self, number: int) -> tuple[int, int] | None:
        """Returns the size that is stated."""
        return self._sizes_px[number]

    def pixels(self, number: int, labels: Sequence[str]) -> NDArray[np.uint8]:
        """Returns the classes of the objects at every pixel."""
        size = self.size_px(number)
        if size is None:
            raise InputError(f"{self.source}: does not state width and height of {self.names[number]}")
        width, height = size
        background = self.classes.background(labels)
        index_of = self.classes.index_by_category(labels)
        drawn = np.full((height, width), background, np.uint8)
        taken = np.zeros((height, width), bool)
        for category, segmentation, place in self._objects[number]:
            rle = to_rle(segmentation, width, height, place)
            index = index_of[category]
            if rle is None or index == background:
                continue
            inside = decode(rle)
            drawn[inside & ~taken] = index
            drawn[inside & taken & (drawn != index)] = IGNORED
            taken |= inside
        return drawn


def _mask_of(stem: Path) -> Path:
    """Returns the mask of that name; of several kinds of file the first that exists."""
    candidates = [stem.with_name(stem.name + suffix) for suffix in MASK_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _values(pixel_map: PixelMap) -> NDArray[np.int64]:
    """Returns what the pixels `(H, W)` of a map hold."""
    with opened_map(pixel_map.path, "mask") as image:
        if pixel_map.categories is not None:
            colours = np.asarray(image.convert("RGB") if image.mode == "P" else image)
            if colours.ndim != 3:
                raise InputError(f"{pixel_map.path}: is of mode {image.mode}; wanted RGB, a colour per class")
            numbers: NDArray[np.int64] = colours[..., :3] @ np.array([1, 1 << 8, 1 << 16])
            return numbers
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            raise InputError(
                f"{pixel_map.path}: is a mask of mode {image.mode}; wanted one channel of class indices, not colours; "
                "or CVAT's labelmap.txt next to its folder, which names the colours"
            )
        return np.asarray(image).astype(np.int64)


def _as_indices(path: Path, values: NDArray[np.int64], labels: Sequence[str]) -> NDArray[np.uint8]:
    """Returns values that are the model's class indices as such."""
    highest = int(np.where(values == IGNORED, -1, values).max())
    if highest >= (len(labels) or IGNORED):
        raise InputError(
            f"{path}: has class {highest}, but the model has {len(labels) or IGNORED} classes (from 0); wanted "
            f"masks of the model's classes, and {IGNORED} for pixels that do not count"
        )
    return values.astype(np.uint8)
