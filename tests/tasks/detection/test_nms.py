from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.tasks.detection import nms
from edgeq.tasks.detection.detections import Detections
from edgeq.tasks.detection.nms import NMS_OPTIONS, select_detections, suppress_overlaps


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return float(intersection / union) if union > 0 else 0.0


@pytest.mark.parametrize("chunk", [1, 7, 256])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(1, 3), st.floats(0.1, 0.9), st.integers(1, 70))
def test_agrees_with_the_definition(
    chunk: int, seed: int, count: int, classes: int, threshold: float, limit: int
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1).astype(np.float32)
    scores = rng.choice(np.linspace(0, 1, 8), count).astype(np.float32)
    labels = rng.integers(0, classes, count)
    expected: list[int] = []
    for index in sorted(range(count), key=lambda entry: -scores[entry]):
        rivals = [other for other in expected if labels[other] == labels[index]]
        if all(overlap(boxes[index], boxes[other]) <= threshold for other in rivals):
            expected.append(index)
    with mock.patch.object(nms, "_CHUNK", chunk):
        assert suppress_overlaps(boxes, scores, labels, threshold, limit).tolist() == expected[:limit]


def test_agrees_with_torchvision() -> None:
    torch = pytest.importorskip("torch")
    torchvision_ops = pytest.importorskip("torchvision.ops")
    rng = np.random.default_rng(5)
    corners = rng.uniform(0, 300, (500, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 120, (500, 2))], axis=1).astype(np.float32)
    scores = (rng.permutation(500) / 500).astype(np.float32)
    labels = rng.integers(0, 4, 500)
    expected = torchvision_ops.batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), 0.5).tolist()
    assert suppress_overlaps(boxes, scores, labels, 0.5, 500).tolist() == expected


# Two boxes of one object (IoU 0.6), a third of another class in the same place, a fourth far away.
CROWD = Detections(
    np.array([[0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32),
    np.array([0.8, 0.4, 0.6, 0.2], np.float32),
    np.array([0, 0, 1, 0]),
)


def select(**options: object) -> Detections:
    return select_detections(CROWD, {**NMS_OPTIONS, **options})


def test_classes_suppress_each_other_only_if_asked() -> None:
    assert select().scores.tolist() == np.array([0.8, 0.6, 0.2], np.float32).tolist()
    assert select(class_aware=False).classes.tolist() == [0, 0]
    assert select(top_k=1).scores.tolist() == np.array([0.8], np.float32).tolist()
    assert select(score_threshold=0.5).classes.tolist() == [0, 1]


def test_none_keeps_every_box_best_first() -> None:
    np.testing.assert_array_equal(select(nms="none").boxes, CROWD.boxes[[0, 2, 1, 3]])


def test_soft_lowers_the_score_by_a_gaussian_of_the_overlap() -> None:
    found = select(nms="soft")
    np.testing.assert_allclose(found.scores, [0.8, 0.6, 0.2, 0.4 * np.exp(-0.36 / 0.5)], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes, CROWD.boxes[[0, 2, 3, 1]])
    assert len(select(nms="soft", score_threshold=0.198)) == 3


def test_weighted_takes_the_mean_of_boxes_that_overlap() -> None:
    found = select(nms="weighted")
    np.testing.assert_allclose(found.boxes[0], [0, 0, 10, (0.8 * 10 + 0.4 * 6) / 1.2], rtol=1e-6)
    np.testing.assert_array_equal(found.boxes[1:], CROWD.boxes[[2, 3]])
    assert found.scores.tolist() == np.array([0.8, 0.6, 0.2], np.float32).tolist()


@pytest.mark.parametrize("way", ["hard", "soft", "weighted", "none"])
def test_nothing_found_is_nothing_kept(way: str) -> None:
    assert select(nms=way, score_threshold=0.9).boxes.shape == (0, 4)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(InputError, match="'fast'; known: hard, soft, weighted, none"):
        select(nms="fast")
