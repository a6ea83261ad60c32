"""The images on which two files differ most, and what each of them sees there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.overlaps import overlaps
from edgeq.tasks.evidence import Box, Example, ExampleBox, Mark

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions

SAME_IOU = 0.5
"""Boxes of one class that overlap by this much are the same find, as for AP50."""


def most_different(
    reference: DetectionPredictions, other: DetectionPredictions, threshold: float, count: int
) -> list[Example]:
    """Returns the images on which two files differ most, the worst first; images without a difference left out.

    Args:
        reference: Predictions of one file.
        other: Predictions of the other, on the same images.
        threshold: Score from which a detection of either counts.
        count: Most images.
    """
    finds = list(zip(_by_image(reference, threshold), _by_image(other, threshold), strict=True))
    differences = [difference(first, second) for first, second in finds]
    worst = sorted(range(len(finds)), key=lambda number: (-differences[number], number))[:count]
    truth = list(_truth_by_image(reference))
    examples = []
    for number in worst:
        if differences[number] > 0:
            first, second = compare_boxes(*finds[number], truth[number])
            sides = (tuple(_shown(box) for box in boxes) for boxes in (first, second, truth[number]))
            examples.append(Example(reference.images[number], *_size(reference, number), differences[number], *sides))
    return examples


def difference(first: Sequence[Box], second: Sequence[Box]) -> float:
    """Returns how far two files differ on an image, from 0.

    It is the sum of the scores of boxes that only one file sees, and of how far the scores of those that both see
    differ.
    """
    pairs = same_finds(first, second)
    shared = sum(abs((first[i].score or 0.0) - (second[j].score or 0.0)) for i, j in pairs)
    seen = {i for i, _ in pairs}, {j for _, j in pairs}
    alone = (
        box.score or 0.0
        for boxes, both in zip((first, second), seen, strict=True)
        for number, box in enumerate(boxes)
        if number not in both
    )
    return shared + sum(alone)


def compare_boxes(
    reference: Sequence[Box], other: Sequence[Box], truth: Sequence[Box] | None
) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """Returns the boxes of two files on one image, marked by what became of them.

    Boxes of one class with an IoU of at least .5 are one find of both. Of the others, those that find an annotated box
    are `lost` (only the reference sees it) or `won` (only the other file does); the rest are false alarms.

    Args:
        reference: Boxes of the reference.
        other: Boxes of the other file.
        truth: Annotated boxes; `None` if they are not known, and nothing is marked.
    """
    pairs = same_finds(reference, other)
    return (
        _marked(reference, {i for i, _ in pairs}, truth, "lost"),
        _marked(other, {j for _, j in pairs}, truth, "won"),
    )


def same_finds(first: Sequence[Box], second: Sequence[Box]) -> list[tuple[int, int]]:
    """Returns pairs of positions of boxes of one class that overlap, the largest overlaps first, each used once."""
    if not first or not second:
        return []
    overlap = overlaps(_corners(first), _corners(second))
    alike = np.array([box.label for box in first])[:, None] == np.array([box.label for box in second])
    pairs, used = [], (set[int](), set[int]())
    for flat in np.argsort(-np.where(alike, overlap, 0), axis=None, kind="stable"):
        i, j = (int(index) for index in np.unravel_index(flat, overlap.shape))
        if not alike[i, j] or overlap[i, j] < SAME_IOU:
            break
        if i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return pairs


def _marked(
    boxes: Sequence[Box], shared: set[int], truth: Sequence[Box] | None, found: Mark
) -> tuple[Box, ...]:  # fmt: skip
    right = {number for number, _ in same_finds(boxes, truth or ())}
    marked = []
    for number, box in enumerate(boxes):
        alone: Mark = "alone" if truth is None else found if number in right else "false alarm"
        marked.append(dataclasses.replace(box, mark="both" if number in shared else alone))
    return tuple(marked)


def _corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    corners = [(box.left, box.top, box.left + box.width, box.top + box.height) for box in boxes]
    return np.array(corners, np.float64)


def _by_image(predictions: DetectionPredictions, threshold: float) -> Iterator[list[Box]]:
    """Yields the detections of each image from a score on, best first."""
    for part in _parts(predictions.counts):
        scores = predictions.scores[part]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        rows = zip(
            predictions.boxes[part][order].tolist(),
            predictions.labels[part][order].tolist(),
            scores[order].tolist(),
            strict=True,
        )
        yield [
            Box(
                predictions.classes[label], label, score,
                left=left, top=top, width=right - left, height=bottom - top,
            )
            for (left, top, right, bottom), label, score in rows
        ]  # fmt: skip


def _truth_by_image(predictions: DetectionPredictions) -> Iterator[list[Box]]:
    """Yields the annotated boxes of each image."""
    for part in _parts(predictions.truth_counts):
        rows = zip(predictions.truth_boxes[part].tolist(), predictions.truth_labels[part].tolist(), strict=True)
        yield [
            Box(predictions.classes[label], label, left=left, top=top, width=width, height=height)
            for (left, top, width, height), label in rows
        ]


def _shown(box: Box) -> ExampleBox:
    return ExampleBox(**vars(box), shared=box.mark in (None, "both"))


def _parts(counts: NDArray[np.int32]) -> Iterator[slice]:
    """Yields where the entries of each image lie."""
    for end, count in zip(np.cumsum(counts).tolist(), counts.tolist(), strict=True):
        yield slice(end - count, end)


def _size(predictions: DetectionPredictions, number: int) -> tuple[int, int]:
    """Returns the stated size of an image, or one that its annotated boxes fit in."""
    width, height = predictions.sizes_px[number].tolist()
    if width > 0 and height > 0:
        return width, height
    boxes = predictions.truth_boxes
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(axis=0, initial=1.0).tolist()
    return int(np.ceil(right)), int(np.ceil(bottom))
