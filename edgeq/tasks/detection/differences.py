"""The images on which two files differ most, and what each of them sees there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.evidence import Box, Example

if TYPE_CHECKING:
    from edgeq.tasks.detection.records import DetectionPredictions

# Boxes of one class that overlap by this much are the same find, as for AP50.
_SAME = 0.5


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
    found = []
    for number, (first, second) in enumerate(finds):
        pairs = _same_finds(first, second)
        shared = sum(abs(float(first.scores[i]) - float(second.scores[j])) for i, j in pairs)
        alone = [set(range(len(each))) - {pair[side] for pair in pairs} for side, each in enumerate((first, second))]
        lonely = [float(each.scores[list(rest)].sum()) for each, rest in zip((first, second), alone, strict=True)]
        found.append((shared + sum(lonely), number, alone))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    starts = np.concatenate([[0], np.cumsum(reference.truth_counts)])
    examples = []
    for difference, number, (first_alone, second_alone) in found[:count]:
        if difference <= 0:
            break
        truth = slice(starts[number], starts[number + 1])
        width, height = _size(reference, number)
        examples.append(
            Example(
                reference.images[number], width, height, difference,
                _boxes(finds[number][0], first_alone, reference.classes),
                _boxes(finds[number][1], second_alone, other.classes),
                tuple(
                    Box(left, top, width_box, height_box, reference.classes[label])
                    for (left, top, width_box, height_box), label in zip(
                        reference.truth_boxes[truth].tolist(), reference.truth_labels[truth].tolist(), strict=True
                    )
                ),
            )
        )  # fmt: skip
    return examples


@dataclass(frozen=True)
class _Finds:
    """Detections of one image, best first."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scores)


def _by_image(predictions: DetectionPredictions, threshold: float) -> list[_Finds]:
    ends = np.cumsum(predictions.counts)
    found = []
    for end, count in zip(ends.tolist(), predictions.counts.tolist(), strict=True):
        part = slice(end - count, end)
        scores = predictions.scores[part]
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= threshold]
        found.append(_Finds(predictions.boxes[part][order], scores[order], predictions.labels[part][order]))
    return found


def _same_finds(first: _Finds, second: _Finds) -> list[tuple[int, int]]:
    """Returns pairs of detections of one class that overlap, the largest overlaps first, each used once."""
    if not len(first) or not len(second):
        return []
    overlap = _overlaps(first.boxes.astype(np.float64), second.boxes.astype(np.float64))
    overlap[first.labels[:, None] != second.labels] = 0
    pairs, used = [], (set[int](), set[int]())
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = (int(index) for index in np.unravel_index(flat, overlap.shape))
        if overlap[i, j] < _SAME:
            break
        if i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return pairs


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns intersection over union `(len(first), len(second))`."""
    corners = np.maximum(first[:, None, :2], second[:, :2]), np.minimum(first[:, None, 2:], second[:, 2:])
    both = np.clip(corners[1] - corners[0], 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (first, second)]
    union: NDArray[np.float64] = areas[0][:, None] + areas[1] - both
    overlap: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlap


def _boxes(finds: _Finds, alone: set[int], classes: Sequence[str]) -> tuple[Box, ...]:
    rows = zip(finds.boxes.tolist(), finds.labels.tolist(), finds.scores.tolist(), strict=True)
    return tuple(
        Box(left, top, right - left, bottom - top, classes[label], score, number not in alone)
        for number, ((left, top, right, bottom), label, score) in enumerate(rows)
    )


def _size(predictions: DetectionPredictions, number: int) -> tuple[int, int]:
    """Returns the stated size of an image, or one that its annotated boxes fit in."""
    width, height = predictions.sizes_px[number].tolist()
    if width > 0 and height > 0:
        return width, height
    boxes = predictions.truth_boxes
    right, bottom = (boxes[:, :2] + boxes[:, 2:]).max(axis=0, initial=1.0).tolist()
    return int(np.ceil(right)), int(np.ceil(bottom))
