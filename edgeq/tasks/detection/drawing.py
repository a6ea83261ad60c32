"""Boxes as pictures show them."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.tasks.drawing import Canvas, Weight, class_style
from edgeq.tasks.evidence import Box, Mark

_WEIGHTS: dict[Mark | None, Weight] = {None: "normal", "both": "thin"}


def draw_boxes(canvas: Canvas, boxes: Sequence[Box]) -> None:
    """Draws boxes with their labels and scores; what two files both see is thin and has no label.

    Args:
        canvas: What is drawn on.
        boxes: The boxes; where labels get in each other's way, the first ones have the best places.
    """
    for box in sorted(boxes, key=lambda box: -(box.score or 0.0)):
        label = "" if box.mark == "both" else box.describe()
        style = class_style(box.class_index)
        canvas.box(box.left, box.top, box.width, box.height, style, label, _WEIGHTS.get(box.mark, "thick"))
