"""The images on which two files differ most, and what each of them sees there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.agreement import compare_findings, difference
from edgeq.tasks.evidence import Box, Example, ExampleBox

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions


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
            first, second = compare_findings(*finds[number], truth[number])
            sides = (tuple(_shown(box) for box in boxes) for boxes in (first, second, truth[number]))
            examples.append(Example(reference.images[number], *_size(reference, number), differences[number], *sides))
    return examples


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
