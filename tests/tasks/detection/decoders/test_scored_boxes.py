"""Boxes that the graph has decoded: which columns are classes, what their unit is, and how many are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.scored_boxes import decode

# An image of 100x80 in the top left corner of an input of 64x64.
PLACEMENT = Placement(100, 80, 64, 64, 0.5, 0.5, 0, 0)
BOXES = np.array([[[10, 10, 30, 30], [11, 10, 30, 30], [40, 5, 60, 45]]], np.float32)
SCORES = np.array([[[0.1, 0.9, 0.0], [0.2, 0.8, 0.3], [0.4, 0.0, 0.7]]], np.float32)


def decoded(
    scores: np.ndarray = SCORES, boxes: np.ndarray = BOXES, **options: float
) -> list[tuple[list[float], float, int]]:
    found = decode({"boxes": boxes, "scores": scores}, Postprocessing("scored_boxes", options=options), PLACEMENT)
    return list(
        zip(found.boxes.tolist(), found.scores.astype(float).round(4).tolist(), found.classes.tolist(), strict=True)
    )


def test_a_box_is_found_once_for_each_class_above_the_threshold() -> None:
    # The second box overlaps the first one's class; in class 2 it is alone, and the third one ends at the image's edge.
    assert decoded(score_threshold=0.25) == [
        ([20, 20, 60, 60], 0.9, 1),
        ([80, 10, 100, 80], 0.7, 2),
        ([80, 10, 100, 80], 0.4, 0),
        ([22, 20, 60, 60], 0.3, 2),
    ]
    assert [score for _, score, _ in decoded(score_threshold=0.25, top_k=2)] == [0.9, 0.7]
    assert [score for _, score, _ in decoded(score_threshold=0.25, iou_threshold=0.99)] == [0.9, 0.8, 0.7, 0.4, 0.3]


def test_the_background_is_no_class() -> None:
    assert [(score, label) for _, score, label in decoded(background=0)] == [(0.9, 0), (0.7, 1), (0.3, 1)]
    assert [(score, label) for _, score, label in decoded(background=2)] == [(0.9, 1), (0.4, 0), (0.2, 0)]


def test_boxes_may_be_in_parts_of_the_inputs_sides() -> None:
    assert decoded(boxes=BOXES / 64, relative=1) == decoded()


@pytest.mark.parametrize(("cut_first", "left"), [(1, [0.9]), (0, [0.9, 0.7])])
def test_boxes_may_be_compared_before_they_are_cut(cut_first: int, left: list[float]) -> None:
    """Inside the image, which ends at 50 of the input's pixels, these are the same box; outside of it they are not."""
    boxes = np.array([[[30, 10, 80, 30], [30, 10, 55, 30]]], np.float32)
    found = decoded(np.array([[[0.9], [0.7]]], np.float32), boxes, cut_first=cut_first)
    assert [score for _, score, _ in found] == left
    assert {tuple(box) for box, *_ in found} == {(60, 20, 100, 60)}


def test_only_the_best_candidates_of_a_class_are_looked_at() -> None:
    assert [(score, label) for _, score, label in decoded(candidates=1)] == [(0.9, 1), (0.7, 2), (0.4, 0)]


def test_no_score_above_the_threshold_gives_no_boxes() -> None:
    assert decoded(score_threshold=0.95) == []
    found = decode({"boxes": BOXES[:, :0], "scores": SCORES[:, :0]}, Postprocessing("scored_boxes"), PLACEMENT)
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == (0,)


@pytest.mark.parametrize(("boxes", "scores"), [(BOXES[0], SCORES[0]), (BOXES[..., :3], SCORES), (BOXES[:, :2], SCORES)])
def test_other_shapes_are_refused(boxes: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"wanted boxes \(1, N, 4\) and scores \(1, N, columns\), found boxes \("):
        decoded(scores, boxes)


@pytest.mark.parametrize("background", [-2, 3, 0.5])
def test_a_background_that_is_no_column_is_refused(background: float) -> None:
    with pytest.raises(InputError, match=rf"option 'background' is {background}; wanted a column of scores in 0\.\.2"):
        decoded(background=background)
