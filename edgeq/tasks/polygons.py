"""Geometry of polygons in numpy: areas, overlaps, and the smallest rectangle around points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""`(n, 2)` corners x, y in order, of at least three; the last one is connected with the first."""

_Fan = tuple[NDArray[np.float64], NDArray[np.float64]]

# Pairs of polygons whose triangles are compared at once: of quadrilaterals, 8 MiB.
_PAIRS = 1 << 12

# What rounding may move a corner by, in parts of an edge: without it, corners on the other triangle's edge get lost.
_SLACK = 1e-10


def signed_area(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the area of polygons `(..., n, 2)`, positive if their corners go round from x to y."""
    x, y = polygon[..., 0], polygon[..., 1]
    area: NDArray[np.float64] = (x * np.roll(y, -1, axis=-1) - np.roll(x, -1, axis=-1) * y).sum(axis=-1) / 2
    return area


def areas(polygons: Sequence[Polygon]) -> NDArray[np.float64]:
    """Returns the area of each polygon."""
    return np.array([abs(float(signed_area(polygon))) for polygon in polygons])


def overlaps(first: Sequence[Polygon], second: Sequence[Polygon]) -> NDArray[np.float64]:
    """Returns the area that polygons share `(len(first), len(second))`; they need not be convex, only simple.

    A polygon is the sum of the triangles from its first corner to its edges, those that turn back negative; the shared
    area is then the sum over pairs of triangles.
    """
    shared = np.zeros((len(first), len(second)))
    if not len(first) or not len(second):
        return shared
    bounds = [np.array([[*each.min(axis=0), *each.max(axis=0)] for each in group]) for group in (first, second)]
    low, high = (bounds[0][:, None], bounds[1][None])
    near = (low[..., :2] < high[..., 2:]).all(axis=2) & (high[..., :2] < low[..., 2:]).all(axis=2)
    pairs = np.argwhere(near)
    fans = [[_fan(each) for each in group] for group in (first, second)]
    for start in range(0, len(pairs), _PAIRS):
        part = pairs[start : start + _PAIRS]
        shared[part[:, 0], part[:, 1]] = np.abs(_shared_by_fans(fans[0], fans[1], part))
    return shared


def iou(first: Sequence[Polygon], second: Sequence[Polygon]) -> NDArray[np.float64]:
    """Returns intersection over union `(len(first), len(second))`; 0 where both are without area."""
    shared = overlaps(first, second)
    union = areas(first)[:, None] + areas(second) - shared
    ratio: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def upright_overlaps(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the area that the upright bounds of polygons `(N, n, 2)` share `(N, N)`: they share no more."""
    low, high = polygons.min(axis=1), polygons.max(axis=1)
    sides = [
        np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
        for left, right in zip(low.T, high.T, strict=True)
    ]
    return np.asarray(np.maximum(sides[0], 0) * np.maximum(sides[1], 0))


def convex_overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the area that pairs of convex polygons `(P, n, 2)` and `(P, m, 2)` share `(P,)`.

    Its border is what of each polygon's border lies in the other. Of edges that coincide, the first one's count, if
    both polygons lie on one side.
    """
    origin = first[:, :1]
    first, second = _positive(first), _positive(second)
    # Pairs along the last axis: sums over four edges are quick only if they are not the innermost ones.
    one, other = (np.ascontiguousarray((polygons - origin).T) for polygons in (first, second))
    return _area_of_inner_edges(one, other, _SLACK) + _area_of_inner_edges(other, one, -_SLACK)


def smallest_rectangle(points: NDArray[np.float64]) -> Polygon:
    """Returns the corners `(4, 2)` of the rectangle of least area around points `(n, 2)`, in any direction.

    One of its sides lies on an edge of the convex hull (Freeman and Shapira, 1975).
    """
    hull = _convex_hull(points)
    edges = np.diff(hull, axis=0, append=hull[:1])
    lengths = np.hypot(*edges.T)
    if not lengths.any():
        return np.repeat(hull[:1], 4, axis=0)
    along = edges[lengths > 0] / lengths[lengths > 0, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    u, v = hull @ along.T, hull @ across.T
    low, high = np.stack([u.min(axis=0), v.min(axis=0)]), np.stack([u.max(axis=0), v.max(axis=0)])
    best = int((high - low).prod(axis=0).argmin())
    (left, top), (right, bottom) = low[:, best], high[:, best]
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    rectangle: Polygon = corners @ np.stack([along[best], across[best]])
    return rectangle


def _shared_by_fans(first: list[_Fan], second: list[_Fan], pairs: NDArray[np.intp]) -> NDArray[np.float64]:
    """Returns the area that pairs `(P, 2)` of fans share `(P,)`, all of their triangles at once."""
    (ones, one_signs), (others, other_signs) = (
        tuple(np.concatenate(parts) for parts in zip(*fans, strict=True)) for fans in (first, second)
    )
    (sizes, starts), (other_sizes, other_starts) = (
        (lengths := np.array([len(signs) for _, signs in fans]), np.cumsum(lengths) - lengths)
        for fans in (first, second)
    )
    i, j = pairs.T
    counts = sizes[i] * other_sizes[j]
    owners = np.repeat(np.arange(len(pairs)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = starts[i][owners] + within // other_sizes[j][owners]
    columns = other_starts[j][owners] + within % other_sizes[j][owners]
    shared = _shared_by_triangles(ones[rows], others[columns]) * one_signs[rows] * other_signs[columns]
    total: NDArray[np.float64] = np.bincount(owners, weights=shared, minlength=len(pairs)).astype(np.float64)
    return total


def _fan(polygon: Polygon) -> _Fan:
    """Returns triangles `(n - 2, 3, 2)`, all of positive area, and the sign that each had."""
    corners = np.asarray(polygon, np.float64)
    first = np.broadcast_to(corners[0], (len(corners) - 2, 2))
    triangles = np.stack([first, corners[1:-1], corners[2:]], axis=1)
    signs = np.sign(signed_area(triangles))
    return np.where((signs < 0)[:, None, None], triangles[:, ::-1], triangles), signs


def _shared_by_triangles(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the area that pairs of triangles `(P, 3, 2)` share `(P,)`.

    The shared polygon is convex. Its corners are corners of one triangle that lie in the other, and crossings of edges;
    around their mean they are in order.
    """
    starts, ways = first[:, :, None], (np.roll(first, -1, axis=1) - first)[:, :, None]
    other_starts, other_ways = second[:, None], (np.roll(second, -1, axis=1) - second)[:, None]
    between = other_starts - starts
    denominator = _cross(ways, other_ways)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, u = _cross(between, other_ways) / denominator, _cross(between, ways) / denominator
        crossings = (starts + t[..., None] * ways).reshape(len(first), 9, 2)
    on_both = (t >= -_SLACK) & (t <= 1 + _SLACK) & (u >= -_SLACK) & (u <= 1 + _SLACK)
    # Edges in one direction meet at corners only, which are looked at as such.
    crossing = (on_both & (np.abs(denominator) > _SLACK * _sizes(ways) * _sizes(other_ways))).reshape(len(first), 9)
    points = np.concatenate([first, second, np.where(crossing[..., None], crossings, 0)], axis=1)
    valid = np.concatenate([_inside(first, second), _inside(second, first), crossing], axis=1)
    count = valid.sum(axis=1, keepdims=True)
    middle = (points * valid[..., None]).sum(axis=1, keepdims=True) / np.maximum(count, 1)[..., None]
    points = np.where(valid[..., None], points - middle, 0)
    angles = np.where(valid, np.arctan2(points[..., 1], points[..., 0]), np.inf)
    order = np.argsort(angles, axis=1)
    ordered = np.take_along_axis(points, order[..., None], axis=1)
    # Places that are not used repeat the first corner: they add nothing.
    used = np.arange(points.shape[1]) < count
    ordered = np.where(used[..., None], ordered, ordered[:, :1])
    return np.where(count[:, 0] > 2, np.abs(signed_area(ordered)), 0)


def _positive(polygons: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((signed_area(polygons) < 0)[..., None, None], polygons[..., ::-1, :], polygons)


def _area_of_inner_edges(
    polygons: NDArray[np.float64], others: NDArray[np.float64], slack: float
) -> NDArray[np.float64]:
    """Returns what edges of polygons `(2, n, P)` that lie in others `(2, m, P)` add to the area they enclose `(P,)`.

    Each edge is cut by the lines of the other's edges ("A new concept and method for line clipping", Liang and Barsky,
    1984); the area is the integral along the border (Green's theorem).

    Args:
        polygons: x and y, of positive area.
        others: The same.
        slack: How far outside an edge may lie, in parts of the other's edge, if both go in the same direction. An edge
            in the opposite direction has the other polygon on its outer side.
    """
    (x, y), (other_x, other_y) = polygons, others
    (way_x, way_y), (other_way_x, other_way_y) = (np.roll(each, -1, axis=1) - each for each in (polygons, others))
    inward = other_way_x * (y[:, None] - other_y) - other_way_y * (x[:, None] - other_x)
    along = other_way_x * way_x[:, None] + other_way_y * way_y[:, None] > 0
    inward += np.where(along, slack, -_SLACK) * (other_way_x**2 + other_way_y**2)
    step = other_way_x * way_y[:, None] - other_way_y * way_x[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        place = -inward / step
    entry = np.where(step > 0, place, 0).max(axis=1, initial=0)
    end = np.where(step < 0, place, 1).min(axis=1, initial=1)
    outside = ((step == 0) & (inward < 0)).any(axis=1)
    length = np.where(outside, 0, np.maximum(end - entry, 0))
    area: NDArray[np.float64] = (length * (x * way_y - y * way_x)).sum(axis=0) / 2
    return area


def _inside(points: NDArray[np.float64], triangles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns whether points `(P, 3, 2)` lie in triangles `(P, 3, 2)` of positive area, or on their edges `(P, 3)`."""
    ways = np.roll(triangles, -1, axis=1) - triangles
    sides = _cross(ways[:, None], points[:, :, None] - triangles[:, None])
    return np.asarray((sides >= -_SLACK * _sizes(ways).max(axis=1)[:, None, None] ** 2).all(axis=2))


def _sizes(ways: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.hypot(ways[..., 0], ways[..., 1]))


def _cross(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    return product


def _convex_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the corners of the convex hull in order (Andrew's monotone chain, 1979)."""
    rows = np.unique(np.asarray(points, np.float64), axis=0).tolist()
    if len(rows) < 3:
        return np.array(rows)
    chains = []
    for ordered in (rows, rows[::-1]):
        chain: list[list[float]] = []
        for point in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    return np.array(chains[0] + chains[1])


def _turn(first: list[float], second: list[float], third: list[float]) -> float:
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])
