"""COCO's matching of results with objects, for overlaps that pycocotools does not compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""pycocotools' IoU thresholds, to the last bit."""

MAX_RESULTS = 100
"""Most results of an image and class that count."""


def match_image(
    overlaps: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Returns which results are true, and which count as neither true nor false, `(thresholds, D)` each.

    At every threshold each result, the best first, takes the object that it overlaps most and that no better one has
    taken. It takes an ignored object only if there is no other, and then does not count.

    Args:
        overlaps: `(D, G)`, IoU of the results of one image and class, best first, with its objects.
        ignored: `(G,)`, objects that need not be found.
    """
    results, objects = overlaps.shape
    order = np.argsort(ignored, kind="stable")
    overlaps, ignored = overlaps[:, order], ignored[order]
    hits, dropped = (np.zeros((len(THRESHOLDS), results), bool) for _ in range(2))
    for number, threshold in enumerate(np.minimum(THRESHOLDS, 1 - 1e-10)):
        free = np.ones(objects, bool)
        for result in range(results):
            fits = free & (overlaps[result] >= threshold)
            wanted = fits & ~ignored
            candidates = np.flatnonzero(wanted if wanted.any() else fits)
            if not len(candidates):
                continue
            # Of equal overlaps pycocotools takes the last.
            chosen = candidates[::-1][overlaps[result, candidates[::-1]].argmax()]
            free[chosen] = False
            (dropped if ignored[chosen] else hits)[number, result] = True
    return hits, dropped
