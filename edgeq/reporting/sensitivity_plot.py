"""The picture of a model's sensitivity: what each layer costs when quantized, ranked and along the network.

A pale bar is a layer's part of what the whole file loses at most, by its part of the noise. A mark with its 95 %
interval is what was scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.reporting.plots import INK, MUTED, SERIES, Plot
from edgeq.results.sensitivity import Choice, GroupSensitivity, SensitivityResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RANKED = 25
_NAMED = 45
"""More names than this cannot be read along the network."""

_SIDES = (("quantized_alone", "alone in {}", SERIES[1], -0.2), ("float_alone", "alone in float", SERIES[2], 0.2))


def save_sensitivity_plot(result: SensitivityResult, path: Path) -> None:
    """Writes the picture as an SVG file.

    Args:
        result: What was found.
        path: The file.
    """
    ranked = result.ranked[:_RANKED]
    with Plot(7.5, 1.6 + 0.22 * len(ranked) + 3.0) as plot:
        grid: Any = plot.figure.subplots(2, 1, gridspec_kw={"height_ratios": [0.6 + 0.22 * len(ranked), 2.6]})
        _draw(grid[0], ranked, result, upright=False)
        grid[0].set_yticks(range(len(ranked)), [group.name for group in ranked])
        grid[0].invert_yaxis()
        grid[0].set_xlabel(f"points of {result.score} that {result.precision.upper()} loses by a {result.by}")
        grid[0].set_title(f"the most sensitive {result.by}s", loc="left", fontsize=10, color=INK)
        grid[0].legend(loc="lower right", labelcolor=INK)
        _draw(grid[1], result.groups, result, upright=True)
        names = [group.name for group in result.groups]
        grid[1].set_xticks(range(len(names)), names if len(names) <= _NAMED else [""] * len(names), rotation=90)
        grid[1].set_ylabel("points")
        grid[1].set_title("along the network", loc="left", fontsize=10, color=INK)
        plot.save(path, _words(result))


def _draw(axes: Axes, groups: Sequence[GroupSensitivity], result: SensitivityResult, *, upright: bool) -> None:
    bars, line = (axes.bar, axes.axhline) if upright else (axes.barh, axes.axvline)
    for name, side, color, offset in _SIDES:
        label = side.format(result.precision.upper())
        choices: list[Choice] = [getattr(group, name) for group in groups]
        places = [place + offset for place in range(len(groups))]
        at_most = [choice.noise_share * max(result.loss.high, 0.0) for choice in choices]
        bars(places, at_most, 0.38, color=color, alpha=0.3)
        scored = [(place, choice.change) for place, choice in zip(places, choices, strict=True) if choice.change]
        at, found = [place for place, _ in scored], [change.points for _, change in scored]
        reach = [
            [change.points - change.low for _, change in scored],
            [change.high - change.points for _, change in scored],
        ]
        across, up = (at, found) if upright else (found, at)
        up_reach, across_reach = (reach, None) if upright else (None, reach)
        axes.errorbar(
            across, up, up_reach, across_reach, fmt="o", markersize=4, color=color, elinewidth=1.2, label=label
        )
    line(result.matters, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.grid(visible=False, axis="x" if upright else "y")


def _words(result: SensitivityResult) -> str:
    parts = []
    for group in result.ranked[:_RANKED]:
        change = group.quantized_alone.change
        found = f"{change.points:.2f} points ({change.low:.2f} to {change.high:.2f})" if change else "not scored"
        parts.append(f"{group.name}: {found}, {group.quantized_alone.snr_db:.1f} dB")
    precision = result.precision.upper()
    return f"Sensitivity of {result.model} to {precision}, {result.by}s alone in {precision}. {'; '.join(parts)}"
