"""Areas that polygons share, and smallest rectangles: against shapely's numbers, and against what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.tasks.polygons import areas, convex_overlaps, iou, overlaps, smallest_rectangle, upright_overlaps

SQUARE = np.array([(0, 0), (4, 0), (4, 4), (0, 4)], float)
# An arrow with a notch, and a cross: not convex, drawn the other way round.
ARROW = np.array([(1, 1), (9, 5), (1, 9), (4, 5)], float)
CROSS = np.array(
    [(3, 0), (3, 3), (0, 3), (0, 5), (3, 5), (3, 8), (5, 8), (5, 5), (8, 5), (8, 3), (5, 3), (5, 0)], float
)


def rectangle(x: float, y: float, width: float, height: float, degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (width / 2, height / 2)
    return np.asarray(corners @ turn + (x, y))


def test_simple_polygons_share_what_shapely_says():
    """shapely 2.2.0; on 3,360 pairs of random simple polygons both are equal within 1e-12."""
    found = overlaps([ARROW, CROSS], [SQUARE, ARROW, CROSS, rectangle(4, 4, 6, 2, 30)])
    wanted = [[3.375, 20, 12.583333333333, 8.915831984763], [7, 12.583333333333, 28, 8.618802153517]]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(
    first=st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2),
    second=st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2),
    degrees=st.integers(0, 359),
)
def test_upright_rectangles_share_their_middle_however_both_are_turned(first, second, degrees):
    boxes = [rectangle(x + w / 2, y + h / 2, w, h, 0) for x, y, w, h in (first, second)]
    (x, y, w, h), (x2, y2, w2, h2) = first, second
    shared = max(0, min(x + w, x2 + w2) - max(x, x2)) * max(0, min(y + h, y2 + h2) - max(y, y2))
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned = [box @ turn for box in boxes]
    assert overlaps(turned[:1], turned[1:])[0, 0] == pytest.approx(shared, abs=1e-7)
    assert convex_overlaps(np.array(turned[:1]), np.array(turned[1:])) == pytest.approx(shared, abs=1e-5)
    assert iou(turned[:1], turned[:1])[0, 0] == pytest.approx(1)
    assert areas(turned) == pytest.approx([w * h, w2 * h2])


def test_convex_polygons_share_what_simple_ones_do_also_where_their_edges_coincide():
    rng = np.random.default_rng(3)
    numbers = rng.uniform((0, 0, 1, 1, 0), (20, 20, 15, 15, 360), (20, 5)).tolist()
    boxes = [rectangle(x, y, width, height, degrees) for x, y, width, height, degrees in numbers]
    # The same again, from another corner, the other way round, and twice as wide to one side.
    boxes += [
        np.roll(boxes[0], 1, axis=0),
        boxes[1][::-1],
        boxes[2] + (boxes[2][1] - boxes[2][0]) * [[0], [1], [1], [0]],
    ]
    first, second = (each.ravel() for each in np.mgrid[: len(boxes), : len(boxes)])
    corners = np.array(boxes)
    shared = convex_overlaps(corners[first], corners[second])
    np.testing.assert_allclose(shared, overlaps(boxes, boxes)[first, second], atol=1e-5)
    assert (shared <= upright_overlaps(corners)[first, second] + 1e-5).all()


def test_what_has_no_area_shares_nothing():
    line, point = np.array([(0, 0), (4, 4), (0, 0)], float), np.ones((3, 2))
    assert not overlaps([line, point], [SQUARE, line]).any()
    assert not iou([line], [line]).any()
    assert overlaps([], [SQUARE]).shape == (0, 1)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), degrees=st.floats(0, 180))
def test_the_smallest_rectangle_holds_all_points_and_is_found_again(seed, degrees):
    rng = np.random.default_rng(seed)
    x, y, width, height = rng.uniform(5, 20, 4)
    drawn = rectangle(x, y, width, height, degrees)
    inside = drawn[0] + rng.random((20, 2)) @ np.stack([drawn[1] - drawn[0], drawn[3] - drawn[0]])
    found = smallest_rectangle(np.concatenate([inside, drawn]))
    assert iou([found], [drawn])[0, 0] == pytest.approx(1, abs=1e-6)
    loose = smallest_rectangle(inside)
    assert areas([loose])[0] <= areas([drawn])[0] * (1 + 1e-9)
    ways = np.roll(loose, -1, axis=0) - loose
    sides = ways[:, 0] * (inside[:, None, 1] - loose[:, 1]) - ways[:, 1] * (inside[:, None, 0] - loose[:, 0])
    assert ((sides >= -1e-6).all(axis=1) | (sides <= 1e-6).all(axis=1)).all()


@pytest.mark.parametrize("points", [[(3, 4)], [(3, 4), (3, 4)], [(1, 1), (3, 3), (2, 2)]])
def test_points_on_a_line_have_a_rectangle_without_area(points):
    assert areas([smallest_rectangle(np.array(points, float))]) == pytest.approx([0])
