"""Images in one folder, and a map of every pixel of each in another: classes (masks) or depths.

Known layouts: `images/` next to `masks/`, `annotations/` or `depth/`; the same in folders of splits, or with folders of
splits in each of them (ADE20K); and `JPEGImages/` with `SegmentationClass/` and `ImageSets/Segmentation/`, as Pascal
VOC and CVAT's "segmentation mask" have it. A map has the name of its image. `classes.txt` or CVAT's `labelmap.txt`
names the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgeq.boundary import read_text
from edgeq.datasets.findings import Findings
from edgeq.datasets.folder import DataFolder, listed_names
from edgeq.datasets.split import SPLIT_NAMES, WHOLE, AnnotatedImage, DatasetFiles, PixelMap, Split
from edgeq.errors import InputError
from edgeq.inputs.images import ARRAY_SUFFIX, IMAGE_SUFFIXES
from edgeq.inputs.items import ImageFile

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Classes of the masks of Pascal VOC's challenge, by the value of their pixels."""

_IMAGE_FOLDERS = ("images", "image", "img", "imgs", "rgb", "JPEGImages")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_DEPTH_FOLDERS = ("depth", "depths", "depth_maps", "depth_map")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Kinds of file that masks come in; the first one that exists is taken."""

_DEPTH_SUFFIXES = (ARRAY_SUFFIX, *MASK_SUFFIXES)
_VOC_BORDER = (224, 224, 192)


@dataclass(frozen=True)
class _Pair:
    """Two folders that belong together.

    Attributes:
        images: Folder of the images.
        maps: Folder of the maps.
        is_depth: Whether the maps hold depths, and not classes.
    """

    images: Path
    maps: Path
    is_depth: bool


def find(path: Path, folder: DataFolder) -> DatasetFiles | None:
    """Returns the data set if `path` is a folder with images and maps of their pixels; otherwise `None`."""
    if not path.is_dir():
        return None
    if found := find_segmentation_sets(path, folder):
        return DatasetFiles("masks", path, found)
    whole = _pair(path)
    parts = {SPLIT_NAMES[each.name.lower()]: _pair(each) for each in _folders(path) if each.name.lower() in SPLIT_NAMES}
    pairs = {WHOLE: whole} if whole is not None else {name: pair for name, pair in parts.items() if pair is not None}
    if whole is not None:
        inner = {each.name for each in _folders(whole.images)} & {each.name for each in _folders(whole.maps)}
        by_split = {name: SPLIT_NAMES[name.lower()] for name in sorted(inner) if name.lower() in SPLIT_NAMES}
        if by_split:
            pairs = {
                split: _Pair(whole.images / name, whole.maps / name, whole.is_depth) for name, split in by_split.items()
            }
    if not pairs:
        return None
    title = "depth maps" if all(pair.is_depth for pair in pairs.values()) else "masks"
    readers = {name: partial(_read_pair, title, path, name, pair, folder) for name, pair in pairs.items()}
    return DatasetFiles(title, path, readers)


def find_segmentation_sets(root: Path, folder: DataFolder) -> dict[str, partial[Split]]:
    """Returns the splits of `ImageSets/Segmentation`, which list names without a suffix; none without masks."""
    masks = root / "SegmentationClass"
    if not masks.is_dir():
        return {}
    lists = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    return {
        SPLIT_NAMES.get(file.stem, WHOLE if file.stem == "default" else file.stem): partial(
            _read_listed, root, file, folder
        )
        for file in lists
    }


def mask_file(folder: Path, inner: Path) -> Path | None:
    """Returns the mask in a folder of an image that lies at `inner` in its own; `None` if it has none."""
    return _file_of(folder, inner, MASK_SUFFIXES)


def named_classes(root: Path) -> tuple[dict[int, str], dict[int, int | None] | None]:
    """Returns class -> name, and what pixels of coloured masks hold -> class, if the folder states colours."""
    labels = root / "labelmap.txt"
    if labels.is_file():
        return _read_labelmap(labels)
    file = next((root / name for name in ("classes.txt", "labels.txt") if (root / name).is_file()), None)
    if file is None:
        return {}, None
    lines = read_text(file, kind="a text file with one class name per line").splitlines()
    return dict(enumerate(line.strip() for line in lines if line.strip())), None


def _read_labelmap(file: Path) -> tuple[dict[int, str], dict[int, int | None] | None]:
    """Returns what CVAT's file of lines `name:red,green,blue:parts:actions` says."""
    names: dict[int, str] = {}
    colours: dict[int, int | None] = {_number(_VOC_BORDER): None}
    lines = read_text(file, kind="CVAT's labelmap.txt, lines `name:red,green,blue:parts:actions`").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        colour = rest.partition(":")[0].split(",")
        if len(colour) != 3 or not all(each.strip().isdecimal() and int(each) < 256 for each in colour):
            raise InputError(f"{file}: line {number} is {line[:60]!r}; wanted `name:red,green,blue:parts:actions`")
        colours[_number([int(each) for each in colour])] = len(names)
        names[len(names)] = name
    return names, colours


def _number(colour: Sequence[int]) -> int:
    return colour[0] + (colour[1] << 8) + (colour[2] << 16)


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith((".", "__MACOSX")))


def _pair(root: Path) -> _Pair | None:
    """Returns the folders of images and maps in a folder, if the second one holds maps of the first one's images."""
    by_name = {each.name: each for each in _folders(root)}
    images = next((by_name[name] for name in _IMAGE_FOLDERS if name in by_name), None)
    if images is None:
        return None
    for names, suffixes, is_depth in ((_DEPTH_FOLDERS, _DEPTH_SUFFIXES, True), (_MASK_FOLDERS, MASK_SUFFIXES, False)):
        for name in names:
            if name in by_name and _has_map(images, by_name[name], suffixes):
                return _Pair(images, by_name[name], is_depth)
    return None


def _has_map(images: Path, maps: Path, suffixes: Sequence[str]) -> bool:
    files = (each for each in sorted(images.rglob("*")) if each.suffix.lower() in IMAGE_SUFFIXES)
    return any(_file_of(maps, each.relative_to(images), suffixes) for each in files)


def _file_of(maps: Path, inner: Path, suffixes: Sequence[str]) -> Path | None:
    stem = maps / inner.with_suffix("")
    candidates = (stem.with_name(stem.name + suffix) for suffix in suffixes)
    return next((each for each in candidates if each.is_file()), None)


def _read_pair(title: str, root: Path, name: str, pair: _Pair, folder: DataFolder) -> Split:
    paths = {path: path.relative_to(pair.images) for path in folder.list_images(pair.images)}
    suffixes = _DEPTH_SUFFIXES if pair.is_depth else MASK_SUFFIXES
    maps = {path: _file_of(pair.maps, inner, suffixes) for path, inner in paths.items()}
    return _split(title, root, name, maps, pair.is_depth, folder)


def _read_listed(root: Path, file: Path, folder: DataFolder) -> Split:
    name = SPLIT_NAMES.get(file.stem, WHOLE if file.stem == "default" else file.stem)
    maps: dict[Path, Path | None] = {}
    for listed in listed_names(file):
        stated = folder.locate(f"{listed}.jpg", [root / each for each in _IMAGE_FOLDERS])
        found = [stated.with_name(f"{Path(listed).name}{suffix}") for suffix in sorted(IMAGE_SUFFIXES)]
        path = next((each for each in found if each.is_file()), stated)
        maps[path] = _file_of(root / "SegmentationClass", Path(f"{listed}.jpg"), MASK_SUFFIXES)
    return _split("masks", root, name, maps, False, folder)


def _split(
    title: str, root: Path, name: str, maps: Mapping[Path, Path | None], is_depth: bool, folder: DataFolder
) -> Split:
    findings = Findings()
    names, colours = ({}, None) if is_depth else named_classes(root)
    if (root / "ImageSets").is_dir() and not names:
        names = dict(enumerate(VOC_CLASSES))
    images = []
    for number, (path, found) in enumerate(maps.items(), start=1):
        if found is None:
            findings.add(f"images without a {'depth map' if is_depth else 'mask'}, left out", folder.name_of(path))
        elif not (folder.contains(path) and folder.contains(found)):
            findings.add("images outside the data set's folder, left out (`allow_outside` reads them)", path.name)
        else:
            images.append(
                AnnotatedImage(
                    number, ImageFile(path), folder.name_of(path),
                    pixel_map=None if is_depth else PixelMap(found, colours),
                    depth_map=found if is_depth else None,
                )
            )  # fmt: skip
    return Split(title, root, name, tuple(images), names, findings=findings)
