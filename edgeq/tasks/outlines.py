"""The outline of an object of a data set, as one polygon."""

from __future__ import annotations

import numpy as np

from edgeq.datasets.split import Annotation
from edgeq.tasks.polygons import Polygon, smallest_rectangle

_CORNERS = 4


def outline_of(entry: Annotation) -> Polygon:
    """Returns the outline of an object: its only polygon, the smallest rectangle around several, or else its box."""
    if len(entry.polygons) == 1:
        return np.reshape(entry.polygons[0], (-1, 2))
    return rectangle_of(entry)


def rectangle_of(entry: Annotation) -> Polygon:
    """Returns the four corners of an object: those of its polygon, the smallest rectangle around it, or its box."""
    if len(entry.polygons) == 1 and len(entry.polygons[0]) == 2 * _CORNERS:
        return np.reshape(entry.polygons[0], (-1, 2))
    if entry.polygons:
        return smallest_rectangle(np.concatenate([np.reshape(each, (-1, 2)) for each in entry.polygons]))
    left, top, width, height = entry.box
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
