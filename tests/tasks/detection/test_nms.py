from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tasks.detection import nms
from edgeq.tasks.detection.nms import suppress_overlaps


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
