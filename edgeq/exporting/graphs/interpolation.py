"""Resize (ONNX operator specification, opset 19) along one axis, as the matrix that it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PLACES = frozenset({"align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"})
"""Coordinate transformations that look at nothing but the axis."""


@dataclass(frozen=True)
class Interpolation:
    """How a Resize computes a point from its neighbours; the attributes of the operator.

    Attributes:
        mode: `linear` or `cubic`.
        place: One of `PLACES`.
        cubic_a: The kernel's `a` (Keys, 1981).
        exclude_outside: Whether neighbours outside the axis weigh nothing; else they are those at its ends.
        antialias: Whether the kernel is widened where the axis becomes shorter.
    """

    mode: str
    place: str
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    def matrix(self, length: int, size: int, scale: float) -> NDArray[np.float64]:
        """Returns the weight of each of `length` points in each of `size` new ones, `(size, length)`.

        Args:
            length: Points of the axis.
            size: Points that it gets.
            scale: Their ratio, as the operator was given it.
        """
        positions = _positions(self.place, length, size, scale).astype(np.float64)
        shrink = min(scale, 1.0) if self.antialias else 1.0
        reach = int(np.ceil((2 if self.mode == "cubic" else 1) / shrink))
        first = np.floor(positions).astype(np.int64) - reach + 1
        neighbours = first[:, None] + np.arange(2 * reach)
        weights = self._kernel(np.abs(neighbours - positions[:, None]) * shrink)
        if self.exclude_outside:
            weights[(neighbours < 0) | (neighbours >= length)] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        result = np.zeros((size, length))
        rows = np.repeat(np.arange(size), 2 * reach)
        np.add.at(result, (rows, neighbours.clip(0, length - 1).reshape(-1)), weights.reshape(-1))
        return result

    def _kernel(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.mode == "linear":
            return np.maximum(1 - distance, 0)
        a = self.cubic_a
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def nearest(place: str, rounding: str, length: int, size: int, scale: float) -> NDArray[np.int64]:
    """Returns which of `length` points each of `size` new ones takes, `(size,)`.

    Args:
        place: One of `PLACES`.
        rounding: `floor`, `ceil`, `round_prefer_floor` or `round_prefer_ceil`.
        length: Points of the axis.
        size: Points that it gets.
        scale: Their ratio, as the operator was given it.
    """
    positions = _positions(place, length, size, scale)
    whole = _ROUNDING[rounding](positions)
    return whole.astype(np.int64).clip(0, length - 1)


_ROUNDING: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda positions: np.ceil(positions - np.float32(0.5)),
    "round_prefer_ceil": lambda positions: np.floor(positions + np.float32(0.5)),
}


def _positions(place: str, length: int, size: int, scale: float) -> NDArray[np.float32]:
    """Returns where the new points lie, in float32, as the engines compute it: a point in the middle is one there."""
    index, half = np.arange(size, dtype=np.float32), np.float32(0.5)
    if place == "align_corners":
        return np.asarray(index * np.float32(length - 1) / np.float32(max(size - 1, 1)))
    if place == "asymmetric":
        return np.asarray(index / np.float32(scale))
    if place == "pytorch_half_pixel" and size == 1:
        return np.zeros(1, np.float32)
    middle = (index + half) / np.float32(scale)
    if place == "half_pixel_symmetric":
        adjustment = np.float32(size) / (np.float32(scale) * np.float32(length))
        middle = np.float32(length / 2) * (1 - adjustment) + middle
    return np.asarray(middle - half)
