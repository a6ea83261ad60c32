"""Pascal VOC: one XML file per image, in `Annotations/` next to `JPEGImages/` and `ImageSets/`, or among the images.

"The PASCAL Visual Object Classes Challenge 2012 Development Kit" (Everingham and Winn, 2012) counts pixels from 1 and
includes the last one. Annotation tools that write the format count from 0: only files that name VOC's database are
shifted. Lists of images with masks, `ImageSets/Segmentation`, become splits as well, for semantic segmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from edgeq.datasets.boxes import annotation
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, OutsideError, listed_names
from edgeq.datasets.map_folders import find_segmentation_sets
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, Annotation, Box, DatasetFiles, Split
from edgeq.datasets.xml_file import Element, number_in, read_xml, size_in
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES
from edgeq.inputs.items import ImageFile

TITLE = "Pascal VOC"
_KIND = "a Pascal VOC annotation file"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a folder of this format; otherwise `None`."""
    if not path.is_dir():
        return None
    for root in (path, *sorted(each for each in path.iterdir() if each.is_dir()), *sorted(path.glob("VOCdevkit/*"))):
        if (root / "Annotations").is_dir():
            return DatasetFiles(TITLE, root, _image_sets(root, folder))
    by_split: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.xml")):
        name = SPLIT_NAMES.get(file.relative_to(path).parts[0].lower(), WHOLE)
        by_split.setdefault(name, []).append(file)
    if not any(_is_voc(files[0]) for files in by_split.values()):
        return None
    readers = {name: partial(_read, files, name, path, folder) for name, files in by_split.items()}
    return DatasetFiles(TITLE, path, readers)


def _is_voc(file: Path) -> bool:
    try:
        return read_xml(file, kind=_KIND).tag == "annotation"
    except InputError:
        return False


def _image_sets(root: Path, folder: DataFolder) -> Mapping[str, partial[Split]]:
    """Returns the splits of `ImageSets/Main`, which list names without a suffix; without any, the whole folder."""
    readers: dict[str, partial[Split]] = {}
    for file in sorted((root / "ImageSets" / "Main").glob("*.txt")):
        # "cat_train.txt" says of every image whether it holds a cat.
        if file.stem in SPLIT_NAMES or file.stem in ("trainval", "default", WHOLE):
            names = listed_names(file)
            files = [root / "Annotations" / f"{Path(listed).name}.xml" for listed in names]
            # CVAT lists "subset/name" where it exports several subsets.
            named = [root / "Annotations" / f"{listed}.xml" for listed in names]
            files = [exact if exact.is_file() else short for exact, short in zip(named, files, strict=True)]
            name = SPLIT_NAMES.get(file.stem, WHOLE if file.stem == "default" else file.stem)
            readers[name] = partial(_read, files, name, root, folder)
    every = sorted((root / "Annotations").rglob("*.xml"))
    masks = find_segmentation_sets(root, folder)
    boxes = readers or {WHOLE: partial(_read, every, WHOLE, root, folder)}
    return {**boxes, **{f"segmentation-{name}": reader for name, reader in masks.items()}}


def _read(files: Iterable[Path], name: str, root: Path, folder: DataFolder) -> Split:
    findings = Findings()
    documents: list[tuple[Path, Path, Element | None]] = []
    for file in files:
        has_labels = file.is_file() and folder.contains(file)
        try:
            document = read_xml(file, kind=_KIND) if has_labels else None
            documents.append((file, _image_path(file, document, root, folder), document))
        except OutsideError:
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", file.name)
        except InputError as error:
            findings.add("images whose labels cannot be read, left out", error)
    if not documents:
        raise InputError("; ".join([f"{root}: its split {name!r} lists no image", *findings.lines]))
    names = sorted({_text(each, "name") for _, _, document in documents for each in _elements(document)})
    ids = {category: number for number, category in enumerate(names)}
    images = []
    for number, (file, image, document) in enumerate(documents, start=1):
        size = _size(document)
        item = ImageFile(image, size)
        objects = tuple(_objects(document, ids, size, findings, folder.name_of(file)))
        images.append(
            AnnotatedImage(number, item, folder.name_of(image), size, objects, is_background=document is None)
        )
    return Split(TITLE, root, name, tuple(images), {number: name for name, number in ids.items()}, findings=findings)


def _image_path(file: Path, document: Element | None, root: Path, folder: DataFolder) -> Path:
    """Returns the image that an annotation file is about: by its own name first, as tools rename files."""
    starts = [file.parent, *(root / name for name in _IMAGE_FOLDERS)]
    if "Annotations" in file.parts:  # Annotations/sub/1.xml is about JPEGImages/sub/1.jpg
        inner = file.parts[len(root.parts) + 1 : -1]
        starts += [root.joinpath(name, *inner) for name in _IMAGE_FOLDERS]
    for start in starts:
        for suffix in IMAGE_SUFFIXES:
            for spelled in (suffix, suffix.upper()):
                if (path := start / f"{file.stem}{spelled}").is_file() and folder.contains(path):
                    return path
    stated = _text(document, "filename") if document is not None else ""
    return folder.locate(stated or f"{file.stem}.jpg", starts)


def _objects(
    document: Element | None, ids: Mapping[str, int], size: tuple[int, int] | None, findings: Findings, where: str
) -> Iterable[Annotation]:
    for number, each in enumerate(_elements(document), start=1):
        place = f"{where} object {number}"
        box = _box(each.find("bndbox"), first=1 if _is_original(document) else 0)
        found = annotation(
            ids[_text(each, "name")], box, findings, place, size_px=size,
            is_ignored=number_in(each.findtext("difficult")) == 1,
        )  # fmt: skip
        if found is not None:
            yield found


def _elements(document: Element | None) -> list[Element]:
    return [] if document is None else document.findall("object")


def _box(element: Element | None, first: int) -> Box:
    """Returns the box of corners; `first` is the number of the first pixel, whose files include the last one."""
    low_x, low_y, high_x, high_y = (
        number_in(None if element is None else element.findtext(name)) for name in ("xmin", "ymin", "xmax", "ymax")
    )
    return (low_x - first, low_y - first, high_x - low_x + first, high_y - low_y + first)


def _is_original(document: Element | None) -> bool:
    """Returns whether a file is of the challenge itself."""
    database = "" if document is None else document.findtext("source/database") or ""
    return database.strip().upper().startswith("THE VOC")


def _size(document: Element | None) -> tuple[int, int] | None:
    if document is None:
        return None
    return size_in(document.findtext("size/width"), document.findtext("size/height"))


def _text(element: Element | None, name: str) -> str:
    return ("" if element is None else element.findtext(name) or "").strip()
