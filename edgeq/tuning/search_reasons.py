"""Why the recommended file computes each layer or block as it does, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.results.tuning import TunedGroup
from edgeq.tuning.candidate import FLOAT, INT8, Candidate
from edgeq.tuning.search import Search
from edgeq.tuning.search_choice import Tried

_NONE = 0.005
"""Share of the time, or points, below which a figure is none."""


def explain(search: Search, chosen: Tried, tried: Sequence[Tried]) -> tuple[TunedGroup, ...]:
    """Returns what a file does with each group and why.

    Args:
        search: What found it.
        chosen: The file.
        tried: All files; what is known of the one with all groups in INT8 turns noise into points.
    """
    scale, is_bound = _points_of_all(search, tried)
    precisions = search.precisions(chosen.contender.candidate)
    whole = {name: precision for name, precision in precisions.items() if precision != FLOAT}
    found = []
    for group in search.subject.groups:
        others = {name: precision for name, precision in whole.items() if name != group.name}
        in_float = search.expected_us(Candidate(others))
        in_int8 = search.expected_us(Candidate({**others, group.name: INT8}))
        saved = (in_float - in_int8) / search.float_us if search.float_us > 0 else 0.0
        points = search.shares.get(group.name, 0.0) * scale
        size = 3 * sum(search.costs.weights.get(layer, 0) for layer in group.layers)
        precision = precisions[group.name]
        known = group.name in search.shares
        found.append(
            TunedGroup(
                name=group.name,
                layers=group.layers,
                precision=precision,
                points=round(points, 4),
                time_share=round(saved, 5),
                size_bytes=size,
                reason=_reason(precision, points, saved, size, is_bound=is_bound) if known else "float: not screened",
            )
        )
    return tuple(found)


def _points_of_all(search: Search, tried: Sequence[Tried]) -> tuple[float, bool]:
    """Returns the points that all groups in INT8 lose, and whether that is a bound: nothing certain is lost."""
    of_all = [
        each.contender.change for each in tried
        if FLOAT not in search.precisions(each.contender.candidate).values() and each.contender.change is not None
    ]  # fmt: skip
    if not of_all:
        return 0.0, True
    change = max(of_all, key=lambda each: (each.images, each.points))
    return (change.points, False) if change.low > 0 else (max(change.high, 0.0), True)


def _reason(precision: str, points: float, saved: float, size: int, *, is_bound: bool) -> str:
    lost = f"{'up to' if is_bound else 'about'} {points:.2g} points" if points >= _NONE else "hardly any points"
    time = f"{abs(saved):.1%} of the time"
    if precision == FLOAT:
        if saved < _NONE / 10:
            return "float: INT8 is no faster" if saved > -_NONE / 10 else f"float: INT8 takes {time} longer"
        return f"float: INT8 costs {lost} for {time}"
    if saved < _NONE / 10:
        return f"int8: saves {size / 1e3:.3g} kB, costs {lost}"
    return f"int8: saves {time} and {size / 1e3:.3g} kB, costs {lost}"
