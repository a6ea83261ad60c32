"""The areas of classes in an image: as findings, compared pixel by pixel, and as masks for other programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.exporting.artifact import Artifact
from edgeq.files import atomic_path
from edgeq.tasks.evidence import Finding, Mark, label_of
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.semantic.class_map import BACKGROUND, IGNORED
from edgeq.tasks.shapes import ClassArea, PixelSet

# Share of the image below which a part of an area is noise along a border, and not worth a mark.
_LEAST_SHARE = 0.0005
_NOTHING = -1


def class_areas(pixels: NDArray[np.uint8], artifact: Artifact) -> tuple[ClassArea, ...]:
    """Returns the pixels `(H, W)` of each class but the background, the largest share first."""
    areas = [
        ClassArea(
            label_of(artifact, index),
            index,
            share=float((pixels == index).mean()),
            segmentation=PixelSet.of(pixels == index),
        )
        for index in np.unique(pixels).tolist()
        if index != IGNORED and label_of(artifact, index) not in BACKGROUND
    ]
    return tuple(sorted(areas, key=lambda area: -area.share))


def compare_areas(
    reference: Sequence[ClassArea], other: Sequence[ClassArea], truth: Sequence[ClassArea] | None
) -> tuple[tuple[ClassArea, ...], tuple[ClassArea, ...]]:
    """Returns the areas of two files, split into what both say and what only one does.

    Of the latter, pixels of the true class are `lost` (only the reference says so) or `won` (only the other file does);
    the rest are false alarms. Parts of less than 1/2000 of the image are left out.

    Args:
        reference: Areas of the reference.
        other: Areas of the other file.
        truth: The true areas; `None` if they are not known.
    """
    sides = (_pixels(reference), _pixels(other))
    true = None if truth is None else _pixels(truth)
    return (
        tuple(part for area in reference for part in _parts(area, sides[1], true, "lost")),
        tuple(part for area in other for part in _parts(area, sides[0], true, "won")),
    )


def area_difference(first: Sequence[ClassArea], other: Sequence[ClassArea]) -> float:
    """Returns the share of the pixels that are of another class, 0..1."""
    one, two = _pixels(first), _pixels(other)
    if not one.size or not two.size:
        return float(sum(area.share for area in (*first, *other)))
    return float((one != two).mean()) if one.shape == two.shape else 1.0


def _parts(
    area: ClassArea, beside: NDArray[np.int16], true: NDArray[np.int16] | None, found: Mark
) -> Iterator[ClassArea]:
    inside = area.segmentation.pixels()
    shared = inside & _is_class(beside, area, inside)
    parts: list[tuple[Mark, NDArray[np.bool_]]] = [("both", shared)]
    alone = inside & ~shared
    if true is None:
        parts.append(("alone", alone))
    else:
        right = alone & _is_class(true, area, inside)
        parts += [(found, right), ("false alarm", alone & ~right)]
    for mark, pixels in parts:
        share = float(pixels.mean())
        if share >= _LEAST_SHARE:
            yield dataclasses.replace(area, mark=mark, share=share, segmentation=PixelSet.of(pixels))


def _is_class(pixels: NDArray[np.int16], area: ClassArea, like: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns where a map has the class of an area; nowhere in a map of nothing."""
    return pixels == area.class_index if pixels.shape == like.shape else np.zeros(like.shape, bool)


def _pixels(areas: Sequence[ClassArea]) -> NDArray[np.int16]:
    """Returns the class of every pixel `(H, W)`, `_NOTHING` where there is none; empty without an area."""
    if not areas:
        return np.zeros((0, 0), np.int16)
    pixels = np.full(areas[0].segmentation.size, _NOTHING, np.int16)
    for area in areas:
        pixels[area.segmentation.pixels()] = area.class_index
    return pixels


class MaskFiles(ResultFile):
    """`masks/NAME.png` for each image: a gray image of class indices, as semantic segmentation takes its truth."""

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Writes the mask of an image; background and pixels of no class are 0."""
        from PIL import Image

        pixels = np.zeros(size_px[::-1], np.uint8)
        for finding in findings:
            if isinstance(finding, ClassArea):
                pixels[finding.segmentation.pixels()] = finding.class_index
        with atomic_path(self.out / "masks" / Path(name).with_suffix(".png")) as path:
            Image.fromarray(pixels).save(path, format="PNG")

    def close(self) -> None:
        """Writes nothing: each image has its own file."""
