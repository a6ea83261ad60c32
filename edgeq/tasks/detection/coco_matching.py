"""pycocotools' matching of an image's results with its objects, with work only where two of them overlap.

pycocotools asks every result about every object at every threshold. Here a result is asked about the objects that it
overlaps enough for the least threshold, which are few however many an image holds. The decisions are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# pycocotools' cap of a threshold: an overlap of 1 that was rounded down still counts.
_MAX_THRESHOLD = 1 - 1e-10
_NOTHING = -1


def match_quickly(evaluator: Any) -> None:
    """Makes pycocotools' `COCOeval` match each image as `evaluate_image` does."""
    evaluator.evaluateImg = functools.partial(evaluate_image, evaluator)


def evaluate_image(
    evaluator: Any, image: int, category: int, area: Sequence[float], limit: int
) -> dict[str, Any] | None:
    """Returns what pycocotools' `evaluateImg` finds of one image and class, as far as averages need it.

    Args:
        evaluator: pycocotools' evaluator, whose overlaps are computed.
        image: Id of the image.
        category: Id of the class.
        area: Least and largest area of an object that counts.
        limit: Most results that count, the best first.

    Returns:
        By pycocotools' names: `dtIds` and `dtScores` `(D,)`, `dtMatches` `(T, D)` with the id of the object that a
        result finds at each threshold or 0, `dtIgnore` `(T, D)`, and `gtIgnore` `(G,)`; `None` without a result and an
        object.
    """
    truth, found = evaluator._gts[image, category], evaluator._dts[image, category]
    if not truth and not found:
        return None
    ignored = np.array([bool(each["ignore"]) for each in truth], np.bool_) | _outside(truth, area)
    order = np.argsort(ignored, kind="stable")  # objects that count come first
    best = np.argsort([-each["score"] for each in found], kind="stable")[:limit]
    found = [found[number] for number in best]
    overlap = np.asarray(evaluator.ious[image, category], np.float64).reshape(len(found), len(truth))
    crowd = np.array([bool(each["iscrowd"]) for each in truth], np.bool_)
    positions = find_objects(overlap[:, order], ignored[order], crowd[order], evaluator.params.iouThrs)
    # A result without an object has the position -1: the entry behind the last object.
    ids = np.array([*(truth[number]["id"] for number in order), 0])
    matches = ids[positions]
    return {
        "dtIds": [each["id"] for each in found],
        "dtScores": [each["score"] for each in found],
        "dtMatches": matches,
        "dtIgnore": np.append(ignored[order], False)[positions] | ((matches == 0) & _outside(found, area)),
        "gtIgnore": ignored[order],
    }


def find_objects(
    overlap: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Returns the position of the object that each result finds at each threshold `(T, D)`; -1 for none.

    Args:
        overlap: `(D, G)`, results by falling score, objects that count before those that are ignored.
        ignored: `(G,)`, whether a result that finds the object counts as neither right nor wrong.
        crowd: `(G,)`, whether more than one result may find the object.
        thresholds: `(T,)`, least overlaps.
    """
    limits = [min(each, _MAX_THRESHOLD) for each in thresholds.tolist()]
    rows, columns = np.nonzero(overlap >= min(limits))
    near: dict[int, list[tuple[int, float]]] = {}
    for row, column, value in zip(rows.tolist(), columns.tolist(), overlap[rows, columns].tolist(), strict=True):
        near.setdefault(row, []).append((column, value))
    positions = np.full((len(limits), len(overlap)), _NOTHING)
    for number, limit in enumerate(limits):
        taken: set[int] = set()
        for row, objects in near.items():
            position = _best(objects, taken, ignored, limit)
            positions[number, row] = position
            if position != _NOTHING and not crowd[position]:
                taken.add(position)
    return positions


def _best(objects: Sequence[tuple[int, float]], taken: set[int], ignored: NDArray[np.bool_], limit: float) -> int:
    """Returns the object that overlaps most; the last one of equals, and an ignored one only if no other is left."""
    position = _NOTHING
    for column, value in objects:
        if value < limit or column in taken:
            continue
        if position != _NOTHING and ignored[column] and not ignored[position]:
            break
        position, limit = column, value
    return position


def _outside(entries: Sequence[Any], area: Sequence[float]) -> NDArray[np.bool_]:
    areas = np.array([each["area"] for each in entries], np.float64)
    outside: NDArray[np.bool_] = (areas < area[0]) | (areas > area[1])
    return outside
