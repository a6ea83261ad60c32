"""Pictures of what models say: a canvas, its colours, and several pictures side by side. Pillow only.

A task draws its findings with `edgeq.tasks.base.Task.draw`; the canvas offers what these are made of. A further kind of
mark is one more method of `Canvas`.
"""

from __future__ import annotations

from edgeq.tasks.drawing.canvas import Canvas, Weight
from edgeq.tasks.drawing.palette import Style, class_style, contrast, depth_style, ink_on
from edgeq.tasks.drawing.panels import side_by_side

__all__ = ["Canvas", "Style", "Weight", "class_style", "contrast", "depth_style", "ink_on", "side_by_side"]
