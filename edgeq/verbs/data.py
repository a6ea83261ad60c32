"""`edgeq data`: what a data set is, and what is odd about it."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.datasets import find_dataset
from edgeq.datasets.findings import Finding
from edgeq.datasets.split import AnnotatedImage, Split
from edgeq.errors import InputError
from edgeq.files import require_writable
from edgeq.inputs.items import ImageFile
from edgeq.progress import progress_bar
from edgeq.reporting.contact_sheet import write_contact_sheet
from edgeq.results.serialization import RESULTS_VERSION, to_json

# COCO's limits of areas, in pixels.
_SMALL, _MEDIUM = 32**2, 96**2
_WORKERS = 2


@dataclass(frozen=True)
class SplitSummary:
    """One split of a data set.

    Attributes:
        name: Its name.
        description: It in one line.
        images: How many there are.
        boxes: How many, ignored ones included.
        background: Images that nothing is known about.
        classes: Class -> boxes of it, or images of it; classes without any included.
        sizes_px: Width and height of the images: the smallest, the median and the largest area.
        distinct_sizes: How many different sizes there are.
        box_shares: Share of the boxes that COCO calls small, medium and large.
        median_box_px: Side of the square of the median box's area.
        findings: What is odd about it, counted.
        contact_sheet: The file with some of its images.
    """

    name: str
    description: str
    images: int
    boxes: int
    background: int
    classes: Mapping[str, int]
    sizes_px: tuple[tuple[int, int], ...]
    distinct_sizes: int
    box_shares: Mapping[str, float]
    median_box_px: float | None
    findings: tuple[Finding, ...]
    contact_sheet: Path | None = None


@dataclass(frozen=True)
class DataSummary:
    """What a data set is.

    Attributes:
        format: As people call it.
        source: The file or folder by which it was recognised.
        splits: Its splits.
        broken: Name of a split that cannot be read -> why.
    """

    format: str
    source: Path
    splits: tuple[SplitSummary, ...]
    broken: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return {"results_version": RESULTS_VERSION, **to_json(self)}


def examine_data(
    path: Path, split: str | None = None, *, allow_outside: bool = False, out: Path | None = None
) -> DataSummary:
    """Returns what a data set is; every image is decoded once.

    Args:
        path: The data set: a file or folder.
        split: The only split to look at.
        allow_outside: Whether files may be read that it names outside its own folder.
        out: Folder for a contact sheet of each split.

    Raises:
        InputError: it is no data set, has no such split, none of its splits can be read, or `out` cannot be written.
    """
    if out is not None:
        require_writable(out / "a file")
    dataset = find_dataset(path, allow_outside=allow_outside)
    if split is not None and split not in dataset.readers:
        raise InputError(f"`split` {split}: the data set has {', '.join(dataset.readers)}")
    broken: dict[str, str] = {}
    read: list[Split] = []
    for name in dataset.readers if split is None else [split]:
        try:
            read.append(dataset.readers[name]())
        except InputError as error:
            broken[name] = str(error)
    if not read:
        raise InputError("; ".join(broken.values()))
    digests: dict[str, str] = {}
    return DataSummary(
        dataset.format, dataset.source, tuple(_summary(each, _looked_at(each), digests, out) for each in read), broken
    )


@dataclass(frozen=True)
class _Look:
    """What one image turned out to be."""

    size_px: tuple[int, int] | None
    digest: str
    error: str


def _looked_at(split: Split) -> list[_Look]:
    """Returns what each image turned out to be; all of them are decoded."""

    def look(image: AnnotatedImage) -> _Look:
        try:
            digest = image.item.digest()
            content = image.item.read()
        except InputError as error:
            return _Look(None, "", str(error))
        height, width = content.shape[:2] if content.ndim == 3 else content.shape[-2:]
        return _Look((int(width), int(height)), digest, "")

    with ThreadPoolExecutor(_WORKERS) as pool, progress_bar(len(split.images), f"data {split.name}") as advance:
        return [_advanced(look, advance) for look in pool.map(look, split.images)]


def _advanced(look: _Look, advance: Callable[[int], None]) -> _Look:
    advance(1)
    return look


def _summary(split: Split, looks: Sequence[_Look], seen: dict[str, str], out: Path | None) -> SplitSummary:
    """Returns what a split is.

    Args:
        split: The split.
        looks: What each image turned out to be.
        seen: Digest of each image of the splits before -> name of the split; this one's are added.
        out: Folder for the contact sheet.
    """
    _find_odd_images(split, looks, seen)
    _find_odd_classes(split)
    sizes = sorted((look.size_px for look in looks if look.size_px), key=lambda size: (size[0] * size[1], size))
    areas = [each.area_px for image in split.images for each in image.objects]
    sheet = None
    if out is not None:
        sheet = out / f"{split.name}.png"
        write_contact_sheet(split, sheet)
    return SplitSummary(
        name=split.name,
        description=split.describe(),
        images=len(split.images),
        boxes=split.box_count,
        background=split.background_count,
        classes=_class_counts(split),
        sizes_px=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (),
        distinct_sizes=len(set(sizes)),
        box_shares=_shares(areas),
        median_box_px=statistics.median(areas) ** 0.5 if areas else None,
        findings=split.findings.kinds,
        contact_sheet=sheet,
    )


def _find_odd_images(split: Split, looks: Sequence[_Look], seen: dict[str, str]) -> None:
    first_of: dict[str, str] = {}
    for image, look in zip(split.images, looks, strict=True):
        if look.error:
            missing = isinstance(image.item, ImageFile) and not image.item.path.exists()
            what = "images that are missing" if missing else "images that cannot be read"
            split.findings.add(what, image.name if missing else look.error)
            continue
        if look.digest in first_of:
            split.findings.add("copies of another image", f"{image.name} is {first_of[look.digest]}")
        elif look.digest in seen:
            split.findings.add(f"images that are in the split {seen[look.digest]!r} too", image.name)
        first_of.setdefault(look.digest, image.name)
        if image.size_px is not None and image.size_px != look.size_px:
            stated, found = ("x".join(map(str, size or ())) for size in (image.size_px, look.size_px))
            split.findings.add("images of another size than annotated", f"{image.name}: {stated}, found {found}")
    for digest in first_of:
        seen.setdefault(digest, split.name)
    if split.background_count and split.box_count:
        first = next(image.name for image in split.images if image.is_background)
        split.findings.add("images without labels, taken for background", first, split.background_count)


def _find_odd_classes(split: Split) -> None:
    counts = _class_counts(split)
    if sum(counts.values()):
        for name, count in counts.items():
            if not count:
                split.findings.add("classes that nothing is of", repr(name))
    spelled = defaultdict(list)
    for name in split.categories.values():
        spelled[name.casefold()].append(name)
    for names in spelled.values():
        if len(names) > 1:
            split.findings.add("classes of one name", " and ".join(map(repr, names)))


def _class_counts(split: Split) -> dict[str, int]:
    boxes = Counter(each.category_id for image in split.images for each in image.objects)
    labels = Counter(image.label for image in split.images if image.label is not None)
    return {name: boxes[category] or labels[name] for category, name in split.categories.items()}


def _shares(areas: Sequence[float]) -> dict[str, float]:
    if not areas:
        return {}
    small = sum(area < _SMALL for area in areas) / len(areas)
    large = sum(area > _MEDIUM for area in areas) / len(areas)
    return {"small": small, "medium": 1 - small - large, "large": large}
