"""Targets that decode back into their boxes, and the losses as their papers state them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.centernet import decode

torch = pytest.importorskip("torch")

from edgeq.models.centernet_training import (  # noqa: E402
    centernet_loss,
    draw_gaussian,
    encode_targets,
    focal_loss,
    gaussian_radius,
)

SIZE = 64
BOXES = np.array([[4.5, 8, 20.25, 30], [33, 3, 60, 17.5], [0, 40, 64, 64]], np.float32)
LABELS = np.array([1, 0, 1])


def perfect_outputs(targets):
    """Maps that say what the targets say."""
    logits = torch.logit(targets.heatmap, eps=1e-6)
    sizes, offsets = torch.zeros(2, len(logits), 2, SIZE // 4, SIZE // 4)
    image, row, column = targets.cells
    sizes[image, :, row, column] = targets.sizes
    offsets[image, :, row, column] = targets.offsets
    return logits, sizes, offsets


def test_targets_decode_back_into_their_boxes():
    targets = encode_targets([BOXES], [LABELS], 2, SIZE, SIZE)
    maps = dict(zip(("hm", "wh", "reg"), (output.numpy() for output in perfect_outputs(targets)), strict=True))
    post = Postprocessing("centernet", {"heatmap": "hm", "size": "wh", "offset": "reg"}, {"score_threshold": 0.9})
    found = decode(maps, post, Placement(SIZE, SIZE, SIZE, SIZE, 1.0, 1.0, 0.0, 0.0))
    order = np.argsort(found.boxes[:, 2])
    np.testing.assert_allclose(found.boxes[order], BOXES[np.argsort(BOXES[:, 2])], atol=1e-4)
    assert found.classes[order].tolist() == LABELS[np.argsort(BOXES[:, 2])].tolist()


def test_a_batch_keeps_its_images_apart():
    targets = encode_targets(
        [BOXES[:1], np.zeros((0, 4), np.float32), BOXES[1:]], [LABELS[:1], LABELS[:0], LABELS[1:]], 2, SIZE, SIZE
    )
    assert targets.cells[0].tolist() == [0, 2, 2]
    assert (targets.heatmap == 1).sum((1, 2, 3)).tolist() == [1, 0, 2]


def published_radius(width, height, overlap=0.7):
    """CornerNet's three cases with its missing division."""
    b1, c1 = height + width, width * height * (1 - overlap) / (1 + overlap)
    b2, c2 = 2 * (height + width), (1 - overlap) * width * height
    a3, b3, c3 = 4 * overlap, -2 * overlap * (height + width), (overlap - 1) * width * height
    return min(
        (b1 + math.sqrt(b1**2 - 4 * c1)) / 2,
        (b2 + math.sqrt(b2**2 - 16 * c2)) / 2,
        (b3 + math.sqrt(b3**2 - 4 * a3 * c3)) / 2,
    )


@given(st.floats(0.1, 200), st.floats(0.1, 200))
def test_the_radius_is_that_of_the_published_code(width, height):
    assert gaussian_radius(width, height) == pytest.approx(published_radius(width, height), abs=1)
    assert gaussian_radius(width, height) <= published_radius(width, height) + 1e-6


@given(st.integers(0, 15), st.integers(0, 11), st.integers(0, 20))
@settings(max_examples=50)
def test_a_gaussian_is_one_at_its_centre_and_cut_at_the_edges(row, column, radius):
    heatmap = np.zeros((16, 12), np.float32)
    draw_gaussian(heatmap, row, column, radius)
    rows, columns = np.mgrid[:16, :12]
    expected = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * ((2 * radius + 1) / 6) ** 2))
    expected[(abs(rows - row) > radius) | (abs(columns - column) > radius)] = 0
    np.testing.assert_allclose(heatmap, expected, atol=1e-6)
    assert heatmap[row, column] == 1


def test_the_higher_of_two_gaussians_counts():
    both, first, second = np.zeros((3, 16, 16), np.float32)
    for heatmaps, place in (((both, first), (5, 5, 4)), ((both, second), (7, 8, 3))):
        for heatmap in heatmaps:
            draw_gaussian(heatmap, *place)
    np.testing.assert_array_equal(both, np.maximum(first, second))


def test_the_focal_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 3, 4, 5))
    heatmap = rng.random((2, 3, 4, 5))
    heatmap[rng.random(heatmap.shape) < 0.2] = 1
    p = 1 / (1 + np.exp(-logits))
    positive = (1 - p) ** 2 * np.log(p)
    negative = (1 - heatmap) ** 4 * p**2 * np.log(1 - p)
    expected = -np.where(heatmap == 1, positive, negative).sum()
    assert focal_loss(torch.from_numpy(logits), torch.from_numpy(heatmap)).item() == pytest.approx(expected, rel=1e-9)


def test_the_loss_counts_objects_and_weighs_its_parts():
    targets = encode_targets([BOXES], [LABELS], 2, SIZE, SIZE)
    logits, sizes, offsets = perfect_outputs(targets)
    best = centernet_loss((logits, sizes, offsets), targets).item()
    # Every size and offset off by one cell costs 0.1 and 1 an object, whatever their number.
    assert centernet_loss((logits, sizes + 1, offsets), targets).item() == pytest.approx(best + 0.1, abs=1e-4)
    assert centernet_loss((logits, sizes, offsets + 1), targets).item() == pytest.approx(best + 1, abs=1e-4)
    assert centernet_loss((-logits, sizes, offsets), targets).item() > best + 1


def test_an_image_without_objects_has_a_finite_loss():
    targets = encode_targets([BOXES[:0]], [LABELS[:0]], 2, SIZE, SIZE)
    maps = [torch.zeros(1, 2, 16, 16, requires_grad=True) for _ in range(3)]
    loss = centernet_loss((maps[0], maps[1], maps[2]), targets)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 16 * 16 * 0.25 * math.log(2), rel=1e-5)
    assert all(bool(map_.grad.isfinite().all()) for map_ in maps if map_.grad is not None)
