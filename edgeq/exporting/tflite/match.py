"""Finds the tensors of one float graph in another by their values, so that both share one calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

TOLERANCE = 1e-3
"""Largest difference of two tensors that count as one, as a share of the largest magnitude: both engines round."""

Activations = Mapping[str, np.ndarray]


def match_by_value(found: Sequence[Activations], wanted: Sequence[Activations]) -> dict[str, str]:
    """Returns name in `wanted` -> name in `found` for every tensor that both graphs compute; the closest where several.

    Args:
        found: Activations of one graph, `(N, C, H, W)` where they are 4-D, for each probe image.
        wanted: Activations of the other, `(N, H, W, C)` where they are 4-D, for the same images.
    """
    if not found or not wanted:
        return {}
    candidates: dict[int, list[str]] = {}
    for name, array in found[0].items():
        candidates.setdefault(array.size, []).append(name)
    matched = {}
    for name, array in wanted[0].items():
        distances = {
            candidate: max(_distance(one[candidate], other[name]) for one, other in zip(found, wanted, strict=True))
            for candidate in candidates.get(array.size, ())
            if _distance(found[0][candidate], array) <= TOLERANCE
        }
        closest = min(distances, key=distances.__getitem__, default=None)
        if closest is not None and distances[closest] <= TOLERANCE:
            matched[name] = closest
    return matched


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest magnitude; infinite for tensors of another shape."""
    if other.ndim == 4:
        other = other.transpose(0, 3, 1, 2)
    if _without_ones(one.shape) != _without_ones(other.shape):
        return np.inf
    largest = max(float(np.abs(one).max(initial=0)), float(np.abs(other).max(initial=0)))
    if largest == 0:
        return 0.0
    return float(np.abs(one.reshape(-1) - other.reshape(-1)).max()) / largest


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
