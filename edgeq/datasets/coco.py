"""COCO: a JSON file of images, annotations and categories, in the folders that tools lay around it.

Known layouts: `annotations/instances_val2017.json` next to `val2017/` (COCO, CVAT), `valid/_annotations.coco.json`
among its images (Roboflow), `result.json` next to `images/` (Label Studio), and any `.json` of the kind in the folder.
LVIS is COCO with `neg_category_ids`, `not_exhaustive_category_ids` and the image's name in `coco_url`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import Raw, parse_json, read_json, read_limited
from edgeq.datasets.boxes import annotation, box_around
from edgeq.datasets.coco_file import CocoAnnotation, CocoFile
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError
from edgeq.datasets.run_lengths import run_length_mask
from edgeq.datasets.split import (
    WHOLE,
    AnnotatedImage,
    Annotation,
    DatasetFiles,
    PixelMap,
    RunLengthMask,
    Split,
    split_of,
)
from edgeq.errors import InputError
from edgeq.inputs.items import ImageFile

TITLE = "COCO"
_KIND = "a COCO annotation file"

_NOTHING = Raw()
_NAMES = (b'"images"', b'"annotations"', b'"categories"')


class _Head(msgspec.Struct):
    """What tells a COCO file from other JSON: it is not parsed further."""

    images: Raw = _NOTHING
    annotations: Raw = _NOTHING
    categories: Raw = _NOTHING


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a COCO file, or a folder that holds some; otherwise `None`."""
    if path.is_file():
        if path.suffix.lower() != ".json" or not _is_coco(path):
            return None
        name = split_of(path.stem) or split_of(path.parent.name) or WHOLE
        return DatasetFiles(TITLE, path, {name: partial(_read, path, name, folder)})
    files: dict[str, Path] = {}
    for file in _candidates(path):
        name = split_of(file.stem) or split_of(file.parent.name) or WHOLE
        if name in files and not _is_better(file, files[name]):
            continue
        if _is_coco(file):
            files[name] = file
    if not files:
        return None
    readers = {name: partial(_read, file, name, folder) for name, file in sorted(files.items())}
    return DatasetFiles(TITLE, next(iter(files.values())) if len(files) == 1 else path, readers)


def _candidates(folder: Path) -> list[Path]:
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    return [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]


def _is_better(file: Path, other: Path) -> bool:
    """COCO's own folder holds captions and persons next to the instances, which have the boxes of all categories."""
    return file.stem.startswith("instances") and not other.stem.startswith("instances")


def _is_coco(file: Path) -> bool:
    """Returns whether a file is COCO's.

    Raises:
        InputError: it has the names that a COCO file has, but is no JSON: it would be taken for something else.
    """
    try:
        content = read_limited(file, _KIND)
    except InputError:
        return False
    try:
        head = parse_json(content, _Head, source=file, kind=_KIND)
    except InputError:
        if all(name in content for name in _NAMES):
            raise
        return False
    return all(bytes(part).startswith(b"[") for part in (head.images, head.categories, head.annotations))


def _read(file: Path, name: str, folder: DataFolder) -> Split:
    document = read_json(file, CocoFile[CocoAnnotation], kind=_KIND)
    findings = Findings()
    if not document.images:
        raise InputError(f"{file}: its list 'images' is empty; there is nothing to read")
    ambiguous = _repeated([image.id for image in document.images])
    categories = _categories(file, document, findings)
    starts = [file.parent, folder.root, file.parent.parent]
    starts += [start / inner for start in (folder.root, file.parent) for inner in _image_folders(file)]
    images, seen = [], set()
    objects = _objects(document, categories, findings)
    maps = _pixel_maps(file, document, folder, findings)
    for image in document.images:
        stated = image.file_name or image.coco_url.rsplit("/", 1)[-1]
        if image.id in ambiguous:
            findings.add("images with an id that another image has too, left out", f"id {image.id}, {stated}")
            continue
        try:
            path = folder.locate(stated, starts)
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", stated)
            continue
        if path in seen:
            findings.add("images that are listed twice, the second left out", stated)
            continue
        seen.add(path)
        if not path.is_file() and (named := folder.images_named(stated)) and len(named) == 1:
            path = named[0]
        size = image.size_px
        present = frozenset(each.category_id for each in objects.get(image.id, ()))
        negative = image.neg_category_ids
        images.append(
            AnnotatedImage(
                id=image.id,
                item=ImageFile(path, size),
                name=folder.name_of(path),
                size_px=size,
                objects=tuple(objects.get(image.id, ())),
                pixel_map=maps.get(image.id),
                verified=None if negative is None else present.union(negative),
                not_exhaustive=frozenset(image.not_exhaustive_category_ids),
            )
        )
    return Split(TITLE, file, name, tuple(images), categories, findings=findings)


def _image_folders(file: Path) -> list[str]:
    """Returns what the folder of a file's images may be called, `val2017` for instances_val2017.json."""
    stem = file.stem.partition("_")[2] or file.stem
    return ["images", stem, f"images/{stem}"]


def _categories(file: Path, document: CocoFile[CocoAnnotation], findings: Findings) -> dict[int, str]:
    """Returns id -> name, without the super-category that Roboflow adds as the first one and uses for nothing."""
    if twice := _repeated([category.id for category in document.categories]):
        raise InputError(f"{file}: two of its categories have the id {min(twice)}; wanted every id once")
    used = {entry.category_id for entry in document.annotations}
    used |= {each.category_id for entry in document.annotations for each in entry.segments_info or ()}
    parents = {category.supercategory for category in document.categories}
    names = {}
    for category in sorted(document.categories, key=lambda each: each.id):
        is_parent = category.name in parents or category.supercategory in (None, "none")
        if category.id == 0 and category.id not in used and is_parent and len(document.categories) > 1:
            findings.add("unused super-categories with id 0, left out of the classes", repr(category.name))
            continue
        names[category.id] = str(category.name)
    return names


def _objects(
    document: CocoFile[CocoAnnotation], categories: Mapping[int, str], findings: Findings
) -> dict[int, list[Annotation]]:
    """Returns image id -> its objects."""
    sizes = {image.id: image.size_px for image in document.images}
    objects: dict[int, list[Annotation]] = {}
    for number, entry in enumerate(document.annotations, start=1):
        where = f"annotation {number}"
        if entry.segments_info is not None:  # of a panoptic map, see `_pixel_maps`
            continue
        if entry.image_id not in sizes:
            findings.add("annotations of images that are not listed, left out", where)
            continue
        if entry.category_id is None or entry.category_id not in categories:
            findings.add("annotations of categories that are not listed, left out", where)
            continue
        polygons, mask = _outlines(entry, sizes[entry.image_id], findings, where)
        if entry.bbox is None or len(entry.bbox) != 4:
            box = box_around([value for polygon in polygons for value in polygon])
        else:
            left, top, width, height = (math.nan if value is None else float(value) for value in entry.bbox)
            box = (left, top, width, height)
        sound = annotation(
            entry.category_id, box, findings, where, size_px=sizes[entry.image_id], area_px=entry.area,
            is_ignored=bool(entry.iscrowd), polygons=polygons, mask=mask, keypoints=entry.keypoints or (),
        )  # fmt: skip
        if sound is not None:
            objects.setdefault(entry.image_id, []).append(sound)
    return objects


def _outlines(
    entry: CocoAnnotation, size_px: tuple[int, int] | None, findings: Findings, where: str
) -> tuple[list[list[float]], RunLengthMask | None]:
    """Returns the polygons of an object, or its mask."""
    stated = entry.parsed_segmentation(where)
    if isinstance(stated, list):
        polygons = [each for each in stated if isinstance(each, list) and all(map(_is_number, each))]
        if len(polygons) < len(stated):
            findings.add("polygons that are not numbers, left out", where)
        return polygons, None
    return [], None if stated is None else run_length_mask(stated, size_px, findings, where)


def _pixel_maps(
    file: Path, document: CocoFile[CocoAnnotation], folder: DataFolder, findings: Findings
) -> dict[int, PixelMap]:
    """Returns image id -> its panoptic map, which lies in a folder of the file's name; black is of no segment."""
    maps: dict[int, PixelMap] = {}
    for number, entry in enumerate(document.annotations, start=1):
        if entry.segments_info is None or entry.file_name is None:
            continue
        path = file.with_suffix("") / Path(entry.file_name).name
        if not folder.contains(path):
            findings.add(
                "maps outside the data set's folder, left out (`allow_outside` reads them)", f"annotation {number}"
            )
            continue
        maps[entry.image_id] = PixelMap(path, {0: None} | {each.id: each.category_id for each in entry.segments_info})
    return maps


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _repeated(ids: Sequence[int]) -> set[int]:
    return {value for value, count in Counter(ids).items() if count > 1}
