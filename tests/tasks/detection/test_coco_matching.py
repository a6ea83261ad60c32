"""Which result finds which object, compared with the plain rule: each asked about each, at each threshold."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.tasks.detection.coco_matching import find_objects

THRESHOLDS = np.array([0.5, 0.75, 1.0])


def plain_rule(overlap: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns what COCO's rule finds, as it is written down: quadratic in the boxes of an image."""
    positions = np.full((len(THRESHOLDS), len(overlap)), -1)
    for number, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(overlap.shape[1], bool)
        for result in range(len(overlap)):
            least, position = min(threshold, 1 - 1e-10), -1
            for place in range(overlap.shape[1]):
                if taken[place] and not crowd[place]:
                    continue
                if position > -1 and not ignored[position] and ignored[place]:
                    break
                if overlap[result, place] >= least:
                    least, position = overlap[result, place], place
            positions[number, result] = position
            if position > -1:
                taken[position] = True
    return positions


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.integers(0, 9))
def test_each_result_finds_the_object_of_the_plain_rule(seed: int, results: int, objects: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that many overlaps are equal to one another and to a threshold.
    overlap = rng.choice([0.0, 0.3, 0.5, 0.6, 0.75, 0.9, 1 - 1e-11, 1.0], (results, objects))
    ignored = np.sort(rng.random(objects) < 0.4)
    crowd = ignored & (rng.random(objects) < 0.5)
    np.testing.assert_array_equal(
        find_objects(overlap, ignored, crowd, THRESHOLDS), plain_rule(overlap, ignored, crowd)
    )
