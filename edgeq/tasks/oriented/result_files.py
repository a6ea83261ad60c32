"""Oriented boxes as other programs read them: YOLO's text files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeq.tasks.detection.result_files import YoloFiles
from edgeq.tasks.evidence import Finding
from edgeq.tasks.shapes import Outline


class YoloCorners(YoloFiles):
    """Oriented boxes: x and y of the four corners."""

    def numbers(self, finding: Finding, size_px: tuple[int, int]) -> Sequence[float]:
        """Returns the corners."""
        return (np.array(finding.corners) / size_px).ravel().tolist() if isinstance(finding, Outline) else ()
