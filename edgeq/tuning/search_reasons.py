"""Why the recommended file computes each layer or block as it does, in figures and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.results.tuning import TunedGroup
from edgeq.tuning.candidate import FLOAT, INT8, W4A8, Candidate
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
    scale, is_bound = _points_of_noise(search, tried)
    precisions = search.precisions(chosen.contender.candidate)
    whole = {name: precision for name, precision in precisions.items() if precision != FLOAT}
    found = []
    for group in search.subject.groups:
        others = {name: precision for name, precision in whole.items() if name != group.name}
        in_float = search.expected_us(Candidate(others))
        in_int8 = search.expected_us(Candidate({**others, group.name: INT8}))
        saved = (in_float - in_int8) / search.float_us if search.float_us > 0 else 0.0
        points = {precision: share * scale for precision, share in search.shares.get(group.name, {}).items()}
        options = search.problem.groups[group.name]
        sizes = {each: round(options[FLOAT].size_bytes - option.size_bytes) for each, option in options.items()}
        precision = precisions[group.name]
        judged = INT8 if precision == FLOAT else precision
        found.append(
            TunedGroup(
                name=group.name,
                layers=group.layers,
                precision=precision,
                points=round(points.get(judged, 0.0), 4),
                time_share=round(saved, 5),
                size_bytes=sizes.get(judged, 0),
                reason=(
                    _reason(precision, points, saved, sizes, is_bound=is_bound)
                    if points
                    else f"{precision}: not screened"
                ),
            )
        )
    return tuple(found)


def _points_of_noise(search: Search, tried: Sequence[Tried]) -> tuple[float, bool]:
    """Returns the points that a share of 1 of the noise loses, and whether that is a bound: nothing certain is lost.

    It is that of the file without float that certainly loses most, or else the least that such files allow.
    """
    pairs = [
        (each.contender.change, each.contender.noise) for each in tried
        if FLOAT not in search.precisions(each.contender.candidate).values() and each.contender.change is not None
    ]  # fmt: skip
    known = [(change, noise) for change, noise in pairs if noise > 0]
    certain = [(change.images, change.points / noise) for change, noise in known if change.low > 0]
    if certain:
        return max(certain)[1], False
    return min((max(change.high, 0.0) / noise for change, noise in known), default=0.0), True


def _reason(
    precision: str, points: Mapping[str, float], saved: float, sizes: Mapping[str, int], *, is_bound: bool
) -> str:
    """Returns the choice in words.

    Args:
        precision: What is chosen.
        points: Precision -> points that it loses.
        saved: Share of the time that integers save.
        sizes: Precision -> bytes that it saves.
        is_bound: Whether the points are the most that they may be.
    """
    about = "up to" if is_bound else "about"

    def lost(share: float) -> str:
        return f"{about} {share:.2g} points" if share >= _NONE else "hardly any points"

    time = f"{abs(saved):.1%} of the time"
    if precision == FLOAT:
        if saved < _NONE / 10:
            return "float: INT8 is no faster" if saved > -_NONE / 10 else f"float: INT8 takes {time} longer"
        return f"float: INT8 costs {lost(points[INT8])} for {time}"
    bytes_saved = f"{sizes[INT8] / 1e3:.3g} kB"
    text = f"saves {bytes_saved}" if saved < _NONE / 10 else f"saves {time} and {bytes_saved}"
    text = f"int8: {text}, costs {lost(points[INT8])}"
    if W4A8 not in points:
        return text
    further = f"{(sizes[W4A8] - sizes[INT8]) / 1e3:.3g} kB"
    more = lost(points[W4A8] - points[INT8])
    if precision == W4A8:
        return f"w4a8: 4 bits save {further} more than INT8, cost {more}"
    return f"{text}; 4 bits would save {further} more and cost {more}"
