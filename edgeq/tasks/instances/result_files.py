"""Masks as other programs read them: YOLO's text files with polygons, and COCO's results with RLE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.results.serialization import to_json
from edgeq.tasks.detection.result_files import CocoResults, YoloFiles
from edgeq.tasks.evidence import Finding
from edgeq.tasks.instances.contours import largest_outline
from edgeq.tasks.shapes import Mask


class YoloOutlines(YoloFiles):
    """Masks: x and y of the corners of an outline; of a mask of several parts the largest one, without its holes."""

    def numbers(self, finding: Finding, size_px: tuple[int, int]) -> Sequence[float]:
        """Returns the corners."""
        if not isinstance(finding, Mask):
            return ()
        return (largest_outline(finding.segmentation.pixels()) / size_px).ravel().tolist()


class CocoMasks(CocoResults):
    """Masks in compressed RLE, and the boxes around them."""

    def shape(self, finding: Finding) -> dict[str, Any]:
        """Returns mask and box."""
        if not isinstance(finding, Mask):
            return {}
        box = [finding.left, finding.top, finding.width, finding.height]
        return {"bbox": box, "segmentation": to_json(finding.segmentation)}
