"""Which findings of two files are the same, what became of the others, and how far two files differ on an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.overlaps import overlaps
from edgeq.tasks.evidence import Box, Example, Finding, Mark
from edgeq.tasks.keypoints.poses import similarity
from edgeq.tasks.polygons import iou
from edgeq.tasks.shapes import ClassArea, Mask, Outline, PixelSet, Pose

SAME = 0.5
"""Findings of one class that overlap by this much are the same, as for AP50: IoU, or similarity of keypoints."""

F = TypeVar("F", bound=Finding)


@dataclass(frozen=True)
class ShownImage:
    """What a picture of an image shows.

    Attributes:
        image: Name of the image.
        width_px: Width of the image.
        height_px: Height of the image.
        found: What the file finds.
        truth: What is true.
    """

    image: str
    width_px: int
    height_px: int
    found: tuple[Finding, ...]
    truth: tuple[Finding, ...]


Compare = Callable[
    [Sequence[Any], Sequence[Any], "Sequence[Any] | None"], "tuple[tuple[Finding, ...], tuple[Finding, ...]]"
]
Differ = Callable[[Sequence[Any], Sequence[Any]], float]


def compare_findings(
    reference: Sequence[F], other: Sequence[F], truth: Sequence[F] | None
) -> tuple[tuple[F, ...], tuple[F, ...]]:
    """Returns the findings of two files on one image, marked by what became of them.

    Findings of one class that overlap by half are one find of both. Of the others, those that find something true are
    `lost` (only the reference finds it) or `won` (only the other file does); the rest are false alarms.

    Args:
        reference: Findings of the reference.
        other: Findings of the other file.
        truth: What is true; `None` if that is not known, and nothing is marked.
    """
    pairs = same_finds(reference, other)
    return (
        _marked(reference, {i for i, _ in pairs}, truth, "lost"),
        _marked(other, {j for _, j in pairs}, truth, "won"),
    )


def same_finds(first: Sequence[Finding], second: Sequence[Finding]) -> list[tuple[int, int]]:
    """Returns pairs of positions of findings of one class that overlap, the closest first, each used once."""
    if not first or not second:
        return []
    overlap = _overlap(first, second)
    alike = np.array([each.label for each in first])[:, None] == np.array([each.label for each in second])
    pairs, used = [], (set[int](), set[int]())
    for flat in np.argsort(-np.where(alike, overlap, 0), axis=None, kind="stable"):
        i, j = (int(index) for index in np.unravel_index(flat, overlap.shape))
        if not alike[i, j] or overlap[i, j] < SAME:
            break
        if i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return pairs


def difference(first: Sequence[Finding], second: Sequence[Finding]) -> float:
    """Returns how far two files differ on an image, from 0.

    It is the sum of the scores of what only one file finds, and of how far the scores of what both find differ. What
    has no score counts by the share of the image, or as 1.
    """
    pairs = same_finds(first, second)
    shared = sum(abs(_weight(first[i]) - _weight(second[j])) for i, j in pairs)
    seen = {i for i, _ in pairs}, {j for _, j in pairs}
    alone = (
        _weight(finding)
        for findings, both in zip((first, second), seen, strict=True)
        for number, finding in enumerate(findings)
        if number not in both
    )
    return shared + sum(alone)


def most_different_shown(
    reference: Sequence[ShownImage],
    other: Sequence[ShownImage],
    threshold: float,
    count: int,
    compare: Compare = compare_findings,
    differ: Differ = difference,
) -> list[Example]:
    """Returns the images on which two files differ most, the worst first; images without a difference left out.

    Args:
        reference: What one file finds.
        other: What the other file finds; images that only one of them has are left out.
        threshold: Score from which a finding of either counts.
        count: Most images.
        compare: Marks what became of the findings.
        differ: How far two files differ on an image, from 0.
    """
    by_name = {each.image: each for each in other}
    examples = []
    for each in reference:
        beside = by_name.get(each.image)
        if beside is None:
            continue
        first, second = (from_threshold(side.found, threshold) for side in (each, beside))
        apart = differ(first, second)
        if apart > 0:
            sides = compare(first, second, each.truth)
            examples.append(Example(each.image, each.width_px, each.height_px, apart, *sides, each.truth))
    return sorted(examples, key=lambda example: -example.difference)[:count]


def from_threshold(findings: Sequence[F], threshold: float) -> tuple[F, ...]:
    """Returns the findings of at least a score, and those without one."""
    return tuple(finding for finding in findings if finding.score is None or finding.score >= threshold)


def _weight(finding: Finding) -> float:
    if isinstance(finding, ClassArea):
        return finding.share
    return 1.0 if finding.score is None else finding.score


def _marked(findings: Sequence[F], shared: set[int], truth: Sequence[F] | None, found: Mark) -> tuple[F, ...]:
    right = {number for number, _ in same_finds(findings, truth or ())}
    marked = []
    for number, finding in enumerate(findings):
        alone: Mark = "alone" if truth is None else found if number in right else "false alarm"
        marked.append(dataclasses.replace(finding, mark="both" if number in shared else alone))
    return tuple(marked)


def _overlap(first: Sequence[Finding], second: Sequence[Finding]) -> NDArray[np.float64]:
    """Returns how much findings of one kind overlap `(len(first), len(second))`, 0..1; 1 without a shape."""
    both = [*first, *second]
    if all(isinstance(each, Mask | ClassArea) for each in both):
        return _mask_iou(*([each.segmentation for each in side] for side in (first, second)))  # type: ignore[attr-defined]
    if all(isinstance(each, Box) for each in both):
        return overlaps(*(_corners(side) for side in (first, second)))
    if all(isinstance(each, Outline) for each in both):
        return iou(*([np.array(each.corners, np.float64) for each in side] for side in (first, second)))  # type: ignore[attr-defined]
    if all(isinstance(each, Pose) for each in both):
        return similarity(*(np.array([each.points for each in side], np.float64) for side in (first, second)))  # type: ignore[attr-defined]
    return np.ones((len(first), len(second)))


def _mask_iou(first: Sequence[PixelSet], second: Sequence[PixelSet]) -> NDArray[np.float64]:
    from pycocotools import mask

    found = mask.iou([each.rle() for each in first], [each.rle() for each in second], [0] * len(second))
    return np.asarray(found, np.float64).reshape(len(first), len(second))


def _corners(boxes: Sequence[Finding]) -> NDArray[np.float64]:
    corners = [(box.left, box.top, box.left + box.width, box.top + box.height) for box in boxes if isinstance(box, Box)]
    return np.array(corners, np.float64)
