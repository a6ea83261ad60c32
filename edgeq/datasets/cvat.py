"""CVAT's own XML "for images": one file with the labels of the task and the shapes on every image.

https://docs.cvat.ai/docs/manual/advanced/xml_format/ describes it, in version 1.1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeq.datasets.boxes import annotation, box_around, polygon_area, rotated_corners
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, Annotation, DatasetFiles, Split
from edgeq.datasets.xml_file import Element, number_in, read_xml, size_in
from edgeq.errors import InputError
from edgeq.inputs.items import ImageFile

TITLE = "CVAT"
_KIND = "CVAT's XML for images"
_LABELS = ("meta/task/labels/label", "meta/project/labels/label", "meta/job/labels/label")


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is such a file, or a folder with `annotations.xml`; otherwise `None`."""
    file = path / "annotations.xml" if path.is_dir() else path
    if file.suffix.lower() != ".xml" or not file.is_file():
        return None
    document = read_xml(file, kind=_KIND)
    if document.tag != "annotations":
        return None
    if document.find("track") is not None:
        raise InputError(f"{file}: is CVAT's XML for videos; export the task as `CVAT for images`")
    subsets = {image.get("subset") or "" for image in document.iter("image")}
    names = {subset: SPLIT_NAMES.get(subset.lower(), subset or WHOLE) for subset in sorted(subsets)}
    readers = {name: partial(_read, file, document, subset, name, folder) for subset, name in names.items()}
    return DatasetFiles(TITLE, file, readers)


def _read(file: Path, document: Element, subset: str, name: str, folder: DataFolder) -> Split:
    findings = Findings()
    labels = [label for place in _LABELS for label in document.findall(f"{place}/name")]
    names = list(dict.fromkeys((label.text or "").strip() for label in labels))
    ids = {label: number for number, label in enumerate(names, start=1)}
    images = []
    for number, element in enumerate(document.iter("image"), start=1):
        if (element.get("subset") or "") != subset:
            continue
        stated = element.get("name") or ""
        try:
            path = folder.locate(stated, [file.parent / "images" / subset, file.parent / "images", file.parent])
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", stated)
            continue
        size = _size(element)
        objects = []
        for position, shape in enumerate(element, start=1):
            label = shape.get("label") or ""
            if label not in ids:
                ids[label] = len(ids) + 1
            found = _object(shape, ids[label], size, findings, f"{stated} shape {position}")
            if found is not None:
                objects.append(found)
        tags = [tag.get("label") or "" for tag in element.findall("tag")]
        images.append(
            AnnotatedImage(
                number, ImageFile(path, size), folder.name_of(path), size, tuple(objects), tags[0] if tags else None
            )
        )
    return Split(TITLE, file, name, tuple(images), {number: label for label, number in ids.items()}, findings=findings)


def _object(
    shape: Element, category: int, size: tuple[int, int] | None, findings: Findings, where: str
) -> Annotation | None:
    if shape.tag == "box":
        left, top, right, bottom = (number_in(shape.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
        box = (left, top, right - left, bottom - top)
        turned = number_in(shape.get("rotation") or "0")
        if not turned:
            return annotation(category, box, findings, where, size_px=size)
        findings.add("rotated boxes, for detectors the upright box around them", where)
        corners = rotated_corners(*box, turned, centre=True)
        return annotation(category, box_around(corners), findings, where, size_px=size, polygons=[corners])
    if shape.tag == "polygon":
        points = _points(shape)
        if len(points) < 6:
            findings.add("polygons of less than three points, left out", where)
            return None
        area = polygon_area(points)
        return annotation(category, box_around(points), findings, where, size_px=size, area_px=area, polygons=[points])
    if shape.tag != "tag":
        findings.add(f"shapes of the kind {shape.tag!r}, left out: boxes and polygons are read", where)
    return None


def _points(shape: Element) -> list[float]:
    return [number_in(value) for pair in (shape.get("points") or "").split(";") for value in pair.split(",")]


def _size(element: Element) -> tuple[int, int] | None:
    return size_in(element.get("width"), element.get("height"))
