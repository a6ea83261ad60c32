"""Score calibration: F1 against the score from which detections count, and where it is best.

INT8 may keep AP and yet move scores; a threshold that was tuned on FP32 is then no longer the best one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeq.tasks.detection.average_precision import Matches
from edgeq.tasks.evidence import ScoreCurve

_GRID = np.linspace(0.0, 1.0, 101)
_IOU50 = 0


def score_curve(matches: Matches) -> ScoreCurve | None:
    """Returns the curve of all detections; `None` where there is no box or no detection."""
    classes = matches["all"]
    boxes = sum(int(each.boxes.sum()) for each in classes)
    counted = [~each.ignored[_IOU50] for each in classes]
    scores = np.concatenate([each.scores[kept] for each, kept in zip(classes, counted, strict=True)])
    hits = np.concatenate([each.hits[_IOU50][kept] for each, kept in zip(classes, counted, strict=True)])
    if not boxes or not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order], np.cumsum(hits[order])
    # Detections of equal score count together.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    f1 = _f1(true[last], last + 1, boxes)
    best = int(np.argmax(f1))
    kept = np.searchsorted(-scores, -_GRID, side="right")
    on_grid = _f1(np.concatenate([[0], true])[kept], kept, boxes)
    return ScoreCurve(tuple(_GRID.tolist()), tuple(on_grid.tolist()), float(scores[last[best]]), float(f1[best]))


def _f1(true: NDArray[np.int64], kept: NDArray[np.int64], boxes: int) -> NDArray[np.float64]:
    return 2 * true / (kept + boxes)
