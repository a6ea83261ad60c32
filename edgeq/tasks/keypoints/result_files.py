"""Keypoints as other programs read them: YOLO's text files, and COCO's results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.tasks.detection.result_files import CocoResults, YoloFiles, shares
from edgeq.tasks.evidence import Finding
from edgeq.tasks.shapes import Pose


class YoloPoses(YoloFiles):
    """Poses: centre, width and height of the box around the keypoints, and x, y and score of each keypoint."""

    def numbers(self, finding: Finding, size_px: tuple[int, int]) -> Sequence[float]:
        """Returns box and keypoints."""
        if not isinstance(finding, Pose):
            return ()
        points = np.array(finding.points)
        (left, top), (right, bottom) = points[:, :2].min(axis=0).tolist(), points[:, :2].max(axis=0).tolist()
        box = shares((left, top, right - left, bottom - top), size_px)
        return [*box, *(points / (*size_px, 1)).ravel().tolist()]


class CocoKeypoints(CocoResults):
    """Poses: x, y in pixels and score of each keypoint."""

    def shape(self, finding: Finding) -> dict[str, Any]:
        """Returns the keypoints."""
        if not isinstance(finding, Pose):
            return {}
        return {"keypoints": [value for point in finding.points for value in point]}
