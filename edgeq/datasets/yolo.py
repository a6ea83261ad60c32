"""YOLO: one text file of normalised boxes, polygons or keypoints per image, and a file that names the classes.

Known layouts: `data.yaml` with `names` and a folder, a list file or several of them for each split (Ultralytics,
Roboflow, CVAT); `classes.txt` next to `images/` and `labels/` (Label Studio); `obj.data` and `obj.names` (Darknet,
CVAT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import read_text
from edgeq.datasets.boxes import annotation, box_around, polygon_area
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError, exists
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, Annotation, DatasetFiles, Split
from edgeq.datasets.yaml_file import read_yaml
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES, image_size
from edgeq.inputs.items import ImageFile

TITLE = "YOLO"
_KIND = "a YOLO data set (names, and train, val or test)"


class _Yaml(msgspec.Struct):
    names: list[Any] | dict[Any, Any] | None = None
    nc: int | None = None
    path: str | None = None
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    valid: str | list[str] | None = None
    test: str | list[str] | None = None
    kpt_shape: list[int] | None = None


@dataclass(frozen=True)
class _Form:
    """How the label files are to be read.

    Attributes:
        source: The file that names the classes.
        names: Class index -> name.
        keypoints: How many keypoints an object has, and how many numbers each; `None` without.
    """

    source: Path
    names: Mapping[int, str]
    keypoints: tuple[int, int] | None = None


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a file or folder of this format; otherwise `None`."""
    if path.is_file():
        if path.suffix.lower() not in (".yaml", ".yml"):
            return _darknet(path, folder) if path.suffix == ".data" else None
        return _from_yaml(path, folder)
    for file in (*sorted(path.glob("*.yaml")), *sorted(path.glob("*.yml"))):
        if not file.is_file():
            continue
        try:
            found = _from_yaml(file, folder)
        except InputError:
            if file.stem in ("data", "dataset"):
                raise
            continue  # of another program
        if found is not None:
            return found
    if (path / "obj.data").is_file():
        return _darknet(path / "obj.data", folder)
    if (path / "classes.txt").is_file() and (path / "labels").is_dir():
        form = _Form(path / "classes.txt", _named_in(path / "classes.txt"))
        return DatasetFiles(TITLE, form.source, {WHOLE: partial(_read, [path / "images"], WHOLE, form, folder)})
    return None


def _from_yaml(file: Path, folder: DataFolder) -> DatasetFiles | None:
    document = read_yaml(file, _Yaml, kind=_KIND)
    stated = {name: getattr(document, name) for name in ("train", "val", "valid", "test")}
    stated = {SPLIT_NAMES[name]: value for name, value in stated.items() if value}
    if not stated:
        return None
    if document.names is None and document.nc is None:
        raise InputError(f"{file}: has no `names` of its classes; expected {_KIND}")
    names = document.names if document.names is not None else [str(number) for number in range(document.nc or 0)]
    form = _Form(file, _class_names(file, names), _keypoint_form(file, document.kpt_shape))
    start = _start(file, document.path, stated, folder)

    def reader(name: str, value: str | list[str]) -> Callable[[], Split]:
        entries = [value] if isinstance(value, str) else value

        def read() -> Split:
            places = [folder.locate(entry, [start, file.parent], folders=True) for entry in entries]
            return _read(places, name, form, folder)

        return read

    return DatasetFiles(TITLE, file, {name: reader(name, value) for name, value in stated.items()})


def _start(file: Path, stated: str | None, splits: Mapping[str, str | list[str]], folder: DataFolder) -> Path:
    """Returns the folder that paths start from: the file's own, if `path` is of the machine where the file was made."""
    try:
        start = folder.locate(stated or ".", [file.parent], folders=True)
        return start if start.is_dir() else file.parent
    except OutsideError:
        entries = [each for value in splits.values() for each in ([value] if isinstance(value, str) else value)]
        if not any(exists(file.parent / entry, folders=True) for entry in entries):
            raise
        return file.parent


def _class_names(file: Path, names: list[Any] | dict[Any, Any]) -> dict[int, str]:
    if isinstance(names, list):
        return {index: str(name) for index, name in enumerate(names)}
    try:
        return {int(index): str(name) for index, name in sorted(names.items(), key=lambda pair: int(pair[0]))}
    except (TypeError, ValueError):
        raise InputError(f"{file}: its names have keys that are no class indices; expected {_KIND}") from None


def _keypoint_form(file: Path, shape: list[int] | None) -> tuple[int, int] | None:
    if shape is None:
        return None
    if len(shape) != 2 or shape[0] < 1 or shape[1] not in (2, 3):
        raise InputError(f"{file}: kpt_shape is {shape}, wanted the number of keypoints and 2 or 3")
    return shape[0], shape[1]


def _darknet(file: Path, folder: DataFolder) -> DatasetFiles | None:
    pairs = (line.partition("=") for line in read_text(file, kind=_KIND).splitlines())
    values = {key.strip(): value.strip() for key, separator, value in pairs if separator}
    if "names" not in values:
        return None
    # CVAT writes paths that start with data/, the folder into which Darknet's users unpack.
    names = folder.locate(values["names"], [file.parent])
    form = _Form(names, _named_in(names))
    readers = {
        SPLIT_NAMES[key]: partial(_read, [folder.locate(value, [file.parent])], SPLIT_NAMES[key], form, folder)
        for key, value in values.items()
        if key in ("train", "valid", "test")
    }
    return DatasetFiles(TITLE, file, readers)


def _named_in(file: Path) -> dict[int, str]:
    lines = read_text(file, kind="a text file with one class name per line").splitlines()
    return dict(enumerate(line.strip() for line in lines if line.strip()))


def _read(places: Sequence[Path], name: str, form: _Form, folder: DataFolder) -> Split:
    findings = Findings()
    if missing := [place for place in places if not place.exists()]:
        raise InputError(f"{form.source}: its split {name!r} names {missing[0]}, which does not exist")
    paths = list(dict.fromkeys(path for place in places for path in _images(place, folder, findings)))
    if not paths:
        raise InputError(f"{form.source}: its split {name!r} leads to no image in {', '.join(map(str, places))}")
    images = []
    for number, path in enumerate(paths, start=1):
        try:
            images.append(_image(number, path, form, folder, findings))
        except InputError as error:
            findings.add("images whose labels cannot be read, left out", error)
    return Split(TITLE, form.source, name, tuple(images), form.names, findings=findings)


def _images(place: Path, folder: DataFolder, findings: Findings) -> list[Path]:
    """Returns the images of a folder or a list file."""
    if place.is_dir():
        return folder.list_images(place)
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return [place]
    found = []
    for line in read_text(place, kind="a folder of images, or a text file with one path per line").splitlines():
        if not line.strip():
            continue
        try:
            found.append(folder.locate(line.strip(), [place.parent, folder.root]))
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", line.strip())
    return found


def _image(number: int, path: Path, form: _Form, folder: DataFolder, findings: Findings) -> AnnotatedImage:
    labels = _label_file(path, folder)
    name = folder.name_of(path)
    if not labels.is_file() or not folder.contains(labels):
        return AnnotatedImage(number, ImageFile(path), name, is_background=True)
    try:
        size = image_size(path)
    except InputError:  # reading it will say so; without its size the boxes are of no use
        return AnnotatedImage(number, ImageFile(path), name)
    objects: dict[Annotation, None] = {}
    for line_number, line in enumerate(read_text(labels, kind="a YOLO label file").splitlines(), start=1):
        where = f"{folder.name_of(labels)} line {line_number}"
        found = _object(line, size, form, findings, where) if line.strip() else None
        if found in objects:
            findings.add("objects that are stated twice, the second left out", where)
        elif found is not None:
            objects[found] = None
    return AnnotatedImage(number, ImageFile(path), name, size, tuple(objects))


def _label_file(image: Path, folder: DataFolder) -> Path:
    """Returns where an image's labels are: in `labels/` for an image below `images/`, otherwise next to it."""
    inside = image.is_relative_to(folder.root)
    start, parts = (folder.root, image.relative_to(folder.root).parts) if inside else (Path(image.anchor), image.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    moved = [*parts]
    if places:
        moved[places[-1]] = "labels"
    return start.joinpath(*moved).with_suffix(".txt")


def _object(line: str, size: tuple[int, int], form: _Form, findings: Findings, where: str) -> Annotation | None:
    """Returns what a line states: class and box, class and polygon, or class, box and keypoints."""
    try:
        category, *values = [float(word) for word in line.split()]
    except ValueError:
        findings.add("lines that are not numbers, left out", where)
        return None
    if category not in form.names:
        findings.add("class ids beyond the names, left out", f"{where}: {category:g}")
        return None
    if any(abs(value) > 2 for value in values[:4]):
        findings.add("lines with coordinates in pixels, wanted shares of width and height; left out", where)
        return None
    width, height = size
    polygons: list[list[float]] = []
    keypoints: list[float] = []
    area = None
    if form.keypoints is not None and len(values) == 4 + form.keypoints[0] * form.keypoints[1]:
        keypoints = _keypoints(values[4:], form.keypoints[1], size)
        box = _box(values, size)
    elif len(values) in (4, 5):  # a fifth number is a score
        box = _box(values, size)
    else:
        points = [value * (height if index % 2 else width) for index, value in enumerate(values)]
        if len(points) < 6 or len(points) % 2:
            findings.add("polygons of less than three points, left out", where)
            return None
        polygons, box, area = [points], box_around(points), polygon_area(points)
    return annotation(
        int(category), box, findings, where, size_px=size, area_px=area, polygons=polygons, keypoints=keypoints
    )


def _box(values: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Returns the box of a centre and lengths, which are shares of the image's."""
    x, y, width, height = values[0] * size[0], values[1] * size[1], values[2] * size[0], values[3] * size[1]
    return (x - width / 2, y - height / 2, width, height)


def _keypoints(values: Sequence[float], each: int, size: tuple[int, int]) -> list[float]:
    """Returns x, y and visibility of each keypoint in pixels; of files without visibility, one at 0, 0 is absent."""
    found: list[float] = []
    for index in range(0, len(values), each):
        x, y = values[index] * size[0], values[index + 1] * size[1]
        visible = values[index + 2] if each == 3 else 2.0 * bool(x or y)
        found += [x, y, visible if math.isfinite(visible) else 0.0]
    return found
