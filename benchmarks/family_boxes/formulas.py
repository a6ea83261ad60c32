"""The formulas of papers and authors in float64, and torchvision's suppression."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.family_boxes.pairs import Boxes, Opened, Pair, decode

Doubles = NDArray[np.float64]


def sigmoid(values: NDArray[np.floating]) -> Doubles:
    """Returns 1 / (1 + exp(-x))."""
    found: Doubles = 1 / (1 + np.exp(-values.astype(np.float64)))
    return found


def cells(size: tuple[int, int], strides: Sequence[int]) -> tuple[Doubles, Doubles]:
    """Returns column and row `(N, 2)` and stride `(N, 1)` of every cell, stride by stride, row by row.

    Args:
        size: Height and width of the input.
        strides: Pixels of a cell.
    """
    places, steps = [], []
    for stride in strides:
        rows, columns = np.mgrid[: math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]
        places.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        steps.append(np.full((rows.size, 1), stride))
    return np.concatenate(places).astype(np.float64), np.concatenate(steps).astype(np.float64)


def corners(centres: Doubles, sizes: Doubles) -> Doubles:
    """Returns left, top, right and bottom `(N, 4)`."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def by_distances(sides: NDArray[np.floating], places: Doubles, steps: Doubles, bins: int) -> Doubles:
    """Returns boxes from the distances between a cell's point and the box's sides ("Generalized Focal Loss", 2020).

    Args:
        sides: `(N, 4)` distances, or `(N, 4 * bins)` logits of distributions over 0 .. bins - 1.
        places: `(N, 2)` points in cells.
        steps: `(N, 1)` pixels of a cell.
        bins: Of a distribution; 1 for distances.
    """
    distances = sides.astype(np.float64)
    if bins > 1:
        shares = np.exp(distances.reshape(-1, 4, bins))
        distances = (shares * np.arange(bins)).sum(axis=2) / shares.sum(axis=2)
    return np.concatenate([places - distances[:, :2], places + distances[:, 2:]], axis=1) * steps


def suppressed(boxes: Doubles, scores: Doubles, each: Opened, threshold: float, iou: float, count: int) -> Boxes:
    """Returns what torchvision's class-wise suppression leaves, in the image's pixels and cut at its edges.

    Args:
        boxes: `(N, 4)` in the input's pixels.
        scores: `(N, classes)`.
        each: The image.
        threshold: Smallest score.
        iou: Largest overlap with a better box.
        count: Boxes at most.
    """
    from torchvision.ops import batched_nms

    rows, labels = np.nonzero(scores >= threshold)
    found, levels = boxes[rows], scores[rows, labels]
    kept = batched_nms(torch.from_numpy(found), torch.from_numpy(levels), torch.from_numpy(labels), iou)
    chosen = kept[:count].numpy()
    return Boxes(to_image(found[chosen], each), levels[chosen], labels[chosen])


def to_image(boxes: Doubles, each: Opened) -> Doubles:
    """Returns boxes of the input in the image's pixels, cut at its edges."""
    place = each.placement
    moved = boxes - np.array([place.offset_x, place.offset_y] * 2)
    moved /= np.array([place.scale_x, place.scale_y] * 2)
    height, width = each.image.shape[:2]
    cut: Doubles = np.clip(moved, 0, [width, height] * 2)
    return cut


def pair(
    outputs: Mapping[str, NDArray[Any]], boxes: Doubles, scores: Doubles, each: Opened, iou: float, count: int
) -> Pair:
    """Returns what the decoder and what a formula with torchvision's suppression find in an image's outputs.

    The threshold lies half way between two scores, so that both look at the same candidates.
    """
    ordered = np.sort(scores.ravel())[::-1]
    last = min(_CANDIDATES, len(ordered) - 1)
    threshold = max(float((ordered[last - 1] + ordered[last]) / 2), _LEAST)
    limits = {"score_threshold": threshold, "iou_threshold": iou, "top_k": count}
    post = dataclasses.replace(each.post, options={**each.post.options, **limits})
    wanted = suppressed(boxes, scores, each, threshold, iou, count)
    return decode(dict(outputs), post, each.placement), wanted


_CANDIDATES = 600
_LEAST = 0.001
