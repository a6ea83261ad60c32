"""Findings as pictures show them: boxes, outlines, masks, keypoints, areas of classes, and lines of text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.tasks.drawing import Canvas, Style, Weight, class_style, depth_style
from edgeq.tasks.evidence import Box, Finding, Mark
from edgeq.tasks.shapes import ClassArea, DepthBand, Mask, Outline, Pose

SEEN = 0.3
"""Score from which a keypoint is drawn."""

LINKS: dict[int, tuple[tuple[int, int], ...]] = {
    17: (
        (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12),
        (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
    ),
}  # fmt: skip
"""Number of keypoints -> which of them a line joins: of COCO's 17 the limbs; of others nothing is known."""

_WEIGHTS: dict[Mark | None, Weight] = {None: "normal", "both": "thin"}


def draw_findings(canvas: Canvas, findings: Sequence[Finding], style: Style | None = None) -> None:
    """Draws findings with their labels and scores; what two files both find is thin and has no label.

    Args:
        canvas: What is drawn on.
        findings: The findings; where labels get in each other's way, the best ones have the best places.
        style: One style for all, which then have no labels, instead of those of their classes.
    """
    for finding in sorted(findings, key=lambda each: -(each.score or 0.0)):
        label = "" if style is not None or finding.mark == "both" else finding.describe()
        _draw(canvas, finding, style or class_style(finding.class_index), label)


def _draw(canvas: Canvas, finding: Finding, style: Style, label: str) -> None:
    weight = _WEIGHTS.get(finding.mark, "thick")
    if isinstance(finding, DepthBand):
        canvas.fill(finding.segmentation.pixels(), depth_style(finding.class_index, finding.bands), opacity=0.75)
        canvas.note(finding.title, depth_style(finding.class_index, finding.bands).colour)
    elif isinstance(finding, ClassArea):
        canvas.fill(finding.segmentation.pixels(), style, weight)
        if label or finding.mark == "both":
            canvas.note(finding.describe(), style.colour)
    elif isinstance(finding, Mask):
        at = (finding.left, finding.top, finding.width, finding.height)
        canvas.fill(finding.segmentation.pixels(), style, weight, label=label, at=at)
    elif isinstance(finding, Box):
        canvas.box(finding.left, finding.top, finding.width, finding.height, style, label, weight)
    elif isinstance(finding, Outline):
        canvas.polygon(finding.corners, style, label, weight)
    elif isinstance(finding, Pose):
        _draw_pose(canvas, finding, style, label, weight)
    elif label:
        canvas.note(label)


def _draw_pose(canvas: Canvas, pose: Pose, style: Style, label: str, weight: Weight) -> None:
    points = np.array(pose.points)
    seen = points[:, 2] >= SEEN
    joined = [
        (tuple(points[i, :2]), tuple(points[j, :2])) for i, j in LINKS.get(len(points), ()) if seen[i] and seen[j]
    ]
    canvas.keypoints([tuple(point) for point in points[seen, :2]], joined, style, label, weight)
