"""Label Studio's own JSON: a list of tasks, each with an image and the regions that people drew.

Coordinates are percentages of the image (https://labelstud.io/guide/export). Its COCO, YOLO and VOC exports are read as
those formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import msgspec

from edgeq.boundary import Raw, read_json
from edgeq.datasets.boxes import annotation, box_around, polygon_area, rotated_corners
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError
from edgeq.datasets.split import WHOLE, AnnotatedImage, Annotation, DatasetFiles, Split
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES
from edgeq.inputs.items import ImageFile

TITLE = "Label Studio"
_KIND = "tasks of Label Studio"

_NOTHING = Raw()


class _Region(msgspec.Struct):
    type: str = ""
    value: dict[str, Any] = {}
    original_width: float | None = None
    original_height: float | None = None


class _Work(msgspec.Struct):
    result: list[_Region] = []
    was_cancelled: bool = False


class _Task(msgspec.Struct):
    data: dict[str, Any]
    annotations: list[_Work] | None = None
    completions: list[_Work] | None = None


class _Start(msgspec.Struct):
    data: dict[str, Any]
    annotations: Raw = _NOTHING
    completions: Raw = _NOTHING


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is such a file, or a folder with one; otherwise `None`."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    for file in files:
        if file.suffix.lower() == ".json" and file.is_file() and _is_export(file):
            return DatasetFiles(TITLE, file, {WHOLE: partial(_read, file, folder)})
    return None


def _is_export(file: Path) -> bool:
    with file.open("rb") as stream:
        if not stream.read(64).lstrip().startswith(b"["):
            return False
    try:
        tasks = read_json(file, list[_Start], kind=_KIND)
    except InputError:
        return False
    return any(bytes(task.annotations) or bytes(task.completions) for task in tasks)


def _read(file: Path, folder: DataFolder) -> Split:
    findings = Findings()
    ids: dict[str, int] = {}
    images = []
    for number, task in enumerate(read_json(file, list[_Task], kind=_KIND), start=1):
        where = f"task {number}"
        url = _image_url(task.data)
        if url is None:
            findings.add("tasks without an image, left out", where)
            continue
        try:
            path = _locate(url, file, folder)
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", url)
            continue
        done = [work for work in task.annotations or task.completions or () if not work.was_cancelled]
        if len(done) > 1:
            findings.add("tasks that several people did, the first one's work taken", where)
        regions = done[0].result if done else []
        size = next((_size(region) for region in regions if _size(region)), None)
        objects, label = _objects(regions, size, ids, findings, where)
        images.append(
            AnnotatedImage(
                number, ImageFile(path, size), folder.name_of(path), size, tuple(objects), label, is_background=not done
            )
        )
    categories = {number: name for name, number in ids.items()}
    return Split(TITLE, file, WHOLE, tuple(images), categories, findings=findings)


def _objects(
    regions: list[_Region], size: tuple[int, int] | None, ids: dict[str, int], findings: Findings, where: str
) -> tuple[list[Annotation], str | None]:
    """Returns the objects of an image, and its class if a choice states one."""
    objects, label = [], None
    for position, region in enumerate(regions, start=1):
        if region.type == "choices":
            label = next(map(str, _list(region.value.get("choices"))), label)
            continue
        names = _list(region.value.get(region.type))
        if region.type not in ("rectanglelabels", "polygonlabels") or not names:
            findings.add(f"regions of the kind {region.type!r}, left out: rectangles and polygons are read", where)
            continue
        category = ids.setdefault(str(names[0]), len(ids) + 1)
        place = f"{where} region {position}"
        found = _object(region, category, _size(region) or size, findings, place)
        if found is not None:
            objects.append(found)
    return objects, label


def _object(
    region: _Region, category: int, size: tuple[int, int] | None, findings: Findings, where: str
) -> Annotation | None:
    if size is None:
        findings.add("regions without the size of their image, left out", where)
        return None
    width, height = size[0] / 100, size[1] / 100
    if region.type == "polygonlabels":
        points = [
            number * scale
            for point in _list(region.value.get("points"))
            if isinstance(point, list)
            for number, scale in zip(_numbers(dict(enumerate(point)), (0, 1)), (width, height), strict=True)
        ]
        if len(points) < 6:
            findings.add("polygons of less than three points, left out", where)
            return None
        area = polygon_area(points)
        return annotation(category, box_around(points), findings, where, size_px=size, area_px=area, polygons=[points])
    left, top, wide, high = _numbers(region.value, ("x", "y", "width", "height"))
    box = (left * width, top * height, wide * width, high * height)
    turned = region.value.get("rotation")
    if not (isinstance(turned, int | float) and turned):
        return annotation(category, box, findings, where, size_px=size)
    findings.add("rotated boxes, for detectors the upright box around them", where)
    corners = rotated_corners(*box, turned, centre=False)
    return annotation(category, box_around(corners), findings, where, size_px=size, polygons=[corners])


def _list(value: Any) -> list[Any]:
    """Returns a list, or an empty one instead of anything else."""
    return value if isinstance(value, list) else []


def _numbers(values: Mapping[Any, Any], keys: tuple[Any, ...]) -> list[float]:
    found = [values.get(key) for key in keys]
    return [float(value) if isinstance(value, int | float) else math.nan for value in found]


def _image_url(data: Mapping[str, Any]) -> str | None:
    """Returns the image of a task: under the key that people choose, so by its value."""
    texts = [value for value in data.values() if isinstance(value, str)]
    if isinstance(data.get("image"), str):
        return str(data["image"])
    return next((text for text in texts if Path(urlparse(text).path).suffix.lower() in IMAGE_SUFFIXES), None)


def _locate(url: str, file: Path, folder: DataFolder) -> Path:
    """Returns the file that a URL of the server means: nothing is fetched, images lie in the data set's folder."""
    parts = urlparse(url)
    stated = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].lstrip("/")
    for name in (stated, stated.rsplit("/", 1)[-1].partition("-")[2]):  # uploads get a prefix: 1a2b3c4d-name.jpg
        if len(named := folder.images_named(name) if name else []) == 1:
            return named[0]
    return folder.locate(stated, [file.parent, file.parent / "images"])


def _size(region: _Region) -> tuple[int, int] | None:
    width, height = region.original_width, region.original_height
    return (int(width), int(height)) if width and height else None
