"""DB: text is where a probability map is high ("Real-time Scene Text Detection with DB", Liao et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.roles import describe, pick_options, pick_outputs
from edgeq.tasks.polygons import smallest_rectangle
from edgeq.tasks.text.components import components
from edgeq.tasks.text.regions import TextRegions

_OPTIONS = {"threshold": 0.3, "box_threshold": 0.6, "unclip_ratio": 1.5, "top_k": 1000}
# Cells of a rectangle's shorter side: of the kernel that was found, and of the text that it grows to.
_MIN_KERNEL, _MIN_TEXT = 3, 5


def decode(outputs: Mapping[str, np.ndarray], post: Postprocessing, placement: Placement) -> TextRegions:
    """Returns a rectangle around each piece of text, the best first.

    The map is cut at the threshold; each connected component becomes its smallest rectangle. Models are trained on
    shrunk text, so a rectangle grows on every side by its area times the ratio over its perimeter.

    Args:
        outputs: Role `map`: `(1, 1, h, w)`, probabilities.
        post: Options `threshold` of the map; `box_threshold`, the least mean probability in a rectangle before it
            grows; `unclip_ratio`; `top_k`, how many are returned at most.
        placement: Where the image lies in the input.

    Raises:
        ModelError: the output is missing, of another shape, or not finite.
        InputError: `post` has an unknown role or option.
    """
    options = pick_options(post, _OPTIONS)
    found = pick_outputs(outputs, post, {"map": "map"})["map"]
    if found.ndim != 4 or found.shape[:2] != (1, 1):
        raise ModelError(f"decoder {post.decoder}: wanted a map (1, 1, h, w), found {describe(outputs)}")
    if not np.isfinite(found).all():
        raise ModelError("computed probabilities that are not finite numbers; it is broken")
    plane = found[0, 0]
    rectangles, scores = [], []
    for points in components(plane > options["threshold"]):
        kernel = smallest_rectangle(points.astype(np.float64))
        score = _mean_inside(plane, kernel)
        if min(_sides(kernel)) < _MIN_KERNEL or score < options["box_threshold"]:
            continue
        text = _grown(kernel, options["unclip_ratio"])
        if min(_sides(text)) >= _MIN_TEXT:
            rectangles.append(text)
            scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")[: int(options["top_k"])]
    corners = np.reshape(rectangles, (-1, 4, 2))[order]
    scale = np.array([placement.input_width_px / plane.shape[1], placement.input_height_px / plane.shape[0]])
    limit = np.array([placement.image_width_px, placement.image_height_px], np.float32)
    placed = np.clip(placement.points_to_image(corners * scale), 0, limit)
    return TextRegions(placed.astype(np.float32), np.clip(np.array(scores)[order], 0, 1).astype(np.float32))


def _sides(rectangle: NDArray[np.float64]) -> tuple[float, float]:
    first, second, third = rectangle[:3]
    return float(np.hypot(*(second - first))), float(np.hypot(*(third - second)))


def _grown(rectangle: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Returns a rectangle that reaches further on every side: the smallest around its polygon offset."""
    width, height = _sides(rectangle)
    distance = width * height * ratio / (2 * (width + height))
    along, down = (rectangle[1] - rectangle[0]) / width * distance, (rectangle[3] - rectangle[0]) / height * distance
    grown: NDArray[np.float64] = rectangle + np.stack([-along - down, along - down, along + down, down - along])
    return grown


def _mean_inside(plane: NDArray[np.float32], rectangle: NDArray[np.float64]) -> float:
    """Returns the mean of the cells whose indices lie in a rectangle, or on its sides."""
    height, width = plane.shape
    low = np.clip(np.floor(rectangle.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    high = np.clip(np.ceil(rectangle.max(axis=0)).astype(int), 0, (width - 1, height - 1))
    rows, columns = np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1]
    inside = np.ones(rows.shape, bool)
    origin = rectangle[0]
    for end in (rectangle[1], rectangle[3]):
        way = end - origin
        length = float(way @ way)
        place = (columns - origin[0]) * way[0] + (rows - origin[1]) * way[1]
        inside &= (place >= -1e-6) & (place <= length + 1e-6)
    part = plane[low[1] : high[1] + 1, low[0] : high[0] + 1]
    return float(part[inside].mean(dtype=np.float64)) if inside.any() else 0.0
