"""Which boxes, outlines, masks and keypoints of a file are sound; the others are left out and counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from edgeq.datasets.findings import Findings
from edgeq.datasets.split import Annotation, Box, RunLengthMask

# A box may end half a pixel behind the last one, depending on how a tool counts.
_TOLERANCE_PX = 1.0


def annotation(
    category_id: int,
    box: Box,
    findings: Findings,
    where: object,
    *,
    size_px: tuple[int, int] | None,
    area_px: float | None = None,
    is_ignored: bool = False,
    polygons: Iterable[Sequence[float]] = (),
    mask: RunLengthMask | None = None,
    keypoints: Sequence[float] = (),
    text: str = "",
) -> Annotation | None:
    """Returns an object of an image, or `None` and a finding where its box is none.

    Args:
        category_id: Its category.
        box: Left, top, width, height in pixels.
        findings: Where oddities are counted.
        where: The place in the data set, for findings.
        size_px: Width and height of the image, if known.
        area_px: Its area; by default the box's.
        is_ignored: See `Annotation`.
        polygons: Its outlines; those of less than three points, of no area or of other numbers are left out.
        mask: See `Annotation`.
        keypoints: See `Annotation`.
        text: See `Annotation`.
    """
    left, top, width, height = box
    if not all(map(math.isfinite, box)):
        findings.add("boxes with a number that is missing or not finite, left out", where)
        return None
    if width <= 0 or height <= 0:
        findings.add("boxes of zero or negative area, left out", where)
        return None
    if size_px is not None:
        if left >= size_px[0] or top >= size_px[1] or left + width <= 0 or top + height <= 0:
            findings.add("boxes outside their image, left out", where)
            return None
        overhang = max(-left, -top, left + width - size_px[0], top + height - size_px[1])
        if overhang > _TOLERANCE_PX:
            findings.add("boxes that reach out of their image by more than a pixel, kept as they are", where)
    sound = tuple(tuple(map(float, each)) for each in polygons if _is_polygon(each, findings, where))
    if not all(map(math.isfinite, keypoints)):
        findings.add("keypoints with a number that is not finite, left out", where)
        keypoints = ()
    area = width * height if area_px is None or not math.isfinite(area_px) else area_px
    box = (left, top, width, height)
    return Annotation(category_id, box, area, is_ignored, sound, mask, tuple(keypoints), text)


def box_around(points: Sequence[float]) -> Box:
    """Returns the smallest box around points x, y, x, y, ...; NaN where there are none."""
    if len(points) < 2 or not all(map(math.isfinite, points)):
        return (math.nan, math.nan, math.nan, math.nan)
    left, top = min(points[::2]), min(points[1::2])
    return (left, top, max(points[::2]) - left, max(points[1::2]) - top)


def polygon_area(points: Sequence[float]) -> float:
    """Returns the area of a polygon x, y, x, y, ..., by the shoelace formula."""
    xs, ys = points[::2], points[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def rotated_corners(left: float, top: float, width: float, height: float, degrees: float, centre: bool) -> list[float]:
    """Returns the corners of a rotated box, x, y, x, y, ...

    Args:
        left: Of the box before it is turned.
        top: Of the box before it is turned.
        width: Of the box.
        height: Of the box.
        degrees: By how much it is turned, clockwise.
        centre: Whether it turns around its centre (CVAT); otherwise around its left top corner (Label Studio).
    """
    if not math.isfinite(degrees):
        return [math.nan] * 8
    x, y = (left + width / 2, top + height / 2) if centre else (left, top)
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    corners = ((left, top), (left + width, top), (left + width, top + height), (left, top + height))
    points: list[float] = []
    for a, b in corners:
        points += [x + (a - x) * cosine - (b - y) * sine, y + (a - x) * sine + (b - y) * cosine]
    return points


def _is_polygon(points: Sequence[float], findings: Findings, where: object) -> bool:
    if len(points) < 6 or len(points) % 2:
        findings.add("polygons of less than three points, left out", where)
        return False
    if not all(map(math.isfinite, points)):
        findings.add("polygons with a number that is not finite, left out", where)
        return False
    if not polygon_area(points):
        findings.add("polygons of zero area, left out", where)
        return False
    return True
