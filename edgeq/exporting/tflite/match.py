"""Finds the tensors of one float graph in another by their values, so that both share one calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TOLERANCE = 1e-3
"""Largest difference of two tensors that count as one, as a share of the largest magnitude: both engines round."""

# Two numbers fit every two values; so many more do not fit by chance.
_LEAST_VALUES = 8
# So many values tell most pairs of tensors apart, before all are compared.
_GLANCE = 4096

Activations = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Line:
    """A tensor that is another one times a factor plus an offset, cut off at its ends.

    Attributes:
        name: The other tensor.
        factor: What it is multiplied by.
        offset: What is added.
        low: Least value.
        high: Largest value.
    """

    name: str
    factor: float
    offset: float
    low: float = -np.inf
    high: float = np.inf

    def of(self, values: np.ndarray) -> np.ndarray:
        """Returns the tensor's values for those of the other."""
        return np.clip(self.factor * values + self.offset, self.low, self.high)


def match_by_value(found: Sequence[Activations], wanted: Sequence[Activations]) -> dict[str, str]:
    """Returns name in `wanted` -> name in `found` for every tensor that both graphs compute; the closest where several.

    Args:
        found: Activations of one graph, `(N, C, H, W)` where they are 4-D, for each probe image.
        wanted: Activations of the other, `(N, H, W, C)` or as in `found` where they are 4-D, for the same images.
    """
    if not found or not wanted:
        return {}
    candidates = _by_size(found)
    matched = {}
    for name, array in wanted[0].items():
        others = [_Values(probe[name]) for probe in wanted]
        distances = {
            candidate: max(_distance(one, other) for one, other in zip(ones, others, strict=True))
            for candidate, ones in candidates.get(array.size, {}).items()
            if _distance(ones[0], others[0], glance=True) <= TOLERANCE
        }
        closest = min(distances, key=distances.__getitem__, default=None)
        if closest is not None and distances[closest] <= TOLERANCE:
            matched[name] = closest
    return matched


def match_lines(
    found: Sequence[Activations], wanted: Sequence[Activations], limits: Mapping[str, tuple[float, float]]
) -> dict[str, Line]:
    """Returns name in `wanted` -> the tensor of `found` that it is a multiple of, plus an offset, within its limits.

    Args:
        found: As for `match_by_value`.
        wanted: As for `match_by_value`.
        limits: Name in `wanted` -> least and largest value that it may have, for the names to look for.
    """
    if not found or not wanted:
        return {}
    candidates = _by_size(found)
    matched = {}
    for name, ends in limits.items():
        others = [_Values(probe[name]) for probe in wanted]
        lines = (
            _line(candidate, ones, others, ends) for candidate, ones in candidates.get(wanted[0][name].size, {}).items()
        )
        first = next((line for line in lines if line is not None), None)
        if first is not None:
            matched[name] = first
    return matched


class _Values:
    """The values of a tensor in the orders that they may have in the other graph."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    @cached_property
    def largest(self) -> float:
        """The largest magnitude."""
        return float(np.abs(self._array).max(initial=0))

    @cached_property
    def own(self) -> tuple[tuple[int, ...], np.ndarray]:
        """The shape without axes of length one, and the values."""
        return _without_ones(self._array.shape), self._array.reshape(-1)

    @cached_property
    def layouts(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """The same for channels first and, if there are four axes, for channels last."""
        if self._array.ndim != 4:
            return [self.own]
        first = self._array.transpose(0, 3, 1, 2)
        return [(_without_ones(first.shape), first.reshape(-1)), self.own]


def _by_size(probes: Sequence[Activations]) -> dict[int, dict[str, list[_Values]]]:
    """Returns number of values -> name of a tensor -> its values for each probe."""
    sizes: dict[int, dict[str, list[_Values]]] = {}
    for name, array in probes[0].items():
        sizes.setdefault(array.size, {})[name] = [_Values(probe[name]) for probe in probes]
    return sizes


def _aligned(one: _Values, other: _Values) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the values of both side by side, `(values,)`, for each layout of `other` that has the shape of `one`."""
    shape, values = one.own
    for found, each in other.layouts:
        if found == shape:
            yield values, each


def _distance(one: _Values, other: _Values, *, glance: bool = False) -> float:
    """Returns the largest difference as a share of the largest magnitude; infinite for tensors of another shape.

    Args:
        one: A tensor of one graph.
        other: A tensor of the other.
        glance: Whether a few of the values do.
    """
    largest = max(one.largest, other.largest)
    with np.errstate(invalid="ignore"):  # a pool's padding is minus infinity
        differences = [
            float(np.abs(a[::step] - b[::step]).max(initial=0))
            for a, b in _aligned(one, other)
            for step in (_step(a) if glance else 1,)
        ]
    if not differences or largest == 0:
        return 0.0 if differences else np.inf
    return min(differences) / largest


def _line(name: str, ones: Sequence[_Values], others: Sequence[_Values], ends: tuple[float, float]) -> Line | None:
    """Returns the line through two tensors' values over all probes; `None` if they do not lie on one."""
    for pairs in zip(*(list(_aligned(one, other)) for one, other in zip(ones, others, strict=True)), strict=True):
        step = _step(pairs[0][0])
        if _fitted(name, [(x[::step], y[::step]) for x, y in pairs], ends) is None:
            continue
        found = _fitted(name, pairs, ends)
        if found is not None:
            return found
    return None


def _fitted(name: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]], ends: tuple[float, float]) -> Line | None:
    x, y = (np.concatenate(values).astype(np.float64) for values in zip(*pairs, strict=True))
    within = np.flatnonzero((y > ends[0]) & (y < ends[1]))
    if len(within) < _LEAST_VALUES or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    first, last = within[np.argmin(x[within])], within[np.argmax(x[within])]
    if x[first] == x[last] or y[first] == y[last]:
        return None
    factor = float((y[last] - y[first]) / (x[last] - x[first]))
    found = Line(name, factor, float(y[first] - factor * x[first]), *ends)
    return found if np.abs(found.of(x) - y).max() <= TOLERANCE * np.ptp(y[within]) else None


def _step(values: np.ndarray) -> int:
    """Returns which share of many values is looked at; one that is no divisor of usual lengths."""
    return 1 + len(values) // _GLANCE // 2 * 2


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)
