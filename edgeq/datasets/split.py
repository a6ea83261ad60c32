"""What every format of data sets reads into: images, and what is known about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgeq.datasets.findings import Findings
from edgeq.inputs.items import Item
from edgeq.wording import counted

Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels of the image as it is read."""

SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What folders, files and keys of splits are called -> the name of the split."""

WHOLE = "all"
"""Name of the split of a data set that has no splits."""


@dataclass(frozen=True, slots=True)
class RunLengthMask:
    """The pixels of an object, in COCO's run-length encoding.

    Attributes:
        size_px: Width and height of the image.
        counts: Lengths of runs, column by column, the first one outside of the object; or pycocotools' text for them.
    """

    size_px: tuple[int, int]
    counts: str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object in an image.

    Attributes:
        category_id: A key of `Split.categories`.
        box: Where it is.
        area_px: Area that decides whether it is small, medium or large; by default the box's.
        is_ignored: Whether finding it is neither right nor wrong: COCO's crowds, Pascal VOC's difficult objects,
            illegible text.
        polygons: Outlines, each x, y, x, y, ... in pixels, at least three points and some area.
        mask: Its pixels, if they are stated instead of outlines.
        keypoints: x, y, visibility, x, y, ... in pixels; visibility is 0 (absent), 1 (hidden) or 2.
        text: What it says, if it is text.
    """

    category_id: int
    box: Box
    area_px: float
    is_ignored: bool = False
    polygons: tuple[tuple[float, ...], ...] = ()
    mask: RunLengthMask | None = None
    keypoints: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class PixelMap:
    """A file that says of every pixel of an image what it shows.

    Attributes:
        path: The file: one channel, or RGB.
        categories: What a pixel holds -> its category, `None` if it does not count; of RGB it is red + 256 green +
            65,536 blue. Without it pixels hold categories, and 255 does not count.
    """

    path: Path
    categories: Mapping[int, int | None] | None = None


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and what is known about it.

    Attributes:
        id: Unique in the split; COCO's own where there is one.
        item: The image, not read yet.
        name: Its path in the data set, with `/` on every system.
        size_px: Width and height that the annotations state, if they do.
        objects: Its objects.
        label: Its class, for classifiers: a name, or an index in digits; or the text that it shows.
        pixel_map: The class of every pixel.
        depth_map: File with the depth of every pixel: `.npy` in metres, or a 16-bit image.
        is_background: Whether nothing says what it shows, as the missing label file of YOLO; it counts as empty.
        verified: Categories that were looked for and are absent or annotated; `None` means all. LVIS states them.
        not_exhaustive: Categories of which some objects are not annotated (LVIS).
    """

    id: int
    item: Item
    name: str
    size_px: tuple[int, int] | None = None
    objects: tuple[Annotation, ...] = ()
    label: str | None = None
    pixel_map: PixelMap | None = None
    depth_map: Path | None = None
    is_background: bool = False
    verified: frozenset[int] | None = None
    not_exhaustive: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Split:
    """One part of a data set, read: what a model is calibrated or scored on.

    Attributes:
        format: The data set's format, as people call it.
        source: The file or folder that says what belongs to it.
        name: `train`, `val`, `test`, another name of the data set's own, or `all`.
        images: The images.
        categories: Category id -> name, by ascending id.
        class_folders: Whether the classes are those of folders, one per class.
        findings: What is odd about it.
        class_map: Class name of a model -> class name here, as the user says.
    """

    format: str
    source: Path
    name: str
    images: tuple[AnnotatedImage, ...]
    categories: Mapping[int, str] = field(default_factory=dict)
    class_folders: bool = False
    findings: Findings = field(default_factory=Findings)
    class_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        """The images, not read yet."""
        return [image.item for image in self.images]

    @property
    def box_count(self) -> int:
        """Boxes of all images, ignored ones included."""
        return sum(len(image.objects) for image in self.images)

    @property
    def background_count(self) -> int:
        """Images that nothing is known about."""
        return sum(image.is_background for image in self.images)

    def describe(self) -> str:
        """Returns in one line what was taken for what."""
        parts = [f"{self.format} ({self.source.name})"]
        if self.categories:
            parts.append(counted(len(self.categories), "class", "classes"))
        parts.append(f"{self.name}: {counted(len(self.images), 'image')}")
        if self.box_count:
            parts.append(counted(self.box_count, "box", "boxes"))
        kinds = {"class map": "pixel_map", "depth map": "depth_map"}
        for kind, field_name in kinds.items():
            if count := sum(getattr(image, field_name) is not None for image in self.images):
                parts.append(counted(count, kind))
        if self.background_count:
            parts.append(f"{self.background_count:,} without labels (background)")
        return ", ".join(parts)


@dataclass(frozen=True)
class DatasetFiles:
    """A data set of one format; its splits are read when they are asked for.

    Attributes:
        format: As people call it.
        source: The file or folder by which it was recognised.
        readers: Name of a split -> reads it. They raise `InputError`.
    """

    format: str
    source: Path
    readers: Mapping[str, Callable[[], Split]]


def split_of(name: str) -> str | None:
    """Returns the split that the name of a folder or file states: `val` for "instances_val2017", if it states one."""
    words = "".join(letter if letter.isalpha() else " " for letter in name.lower()).split()
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
