"""The picture of a search: points lost against time of files that were scored on all images, with their front."""

from __future__ import annotations

from pathlib import Path

from edgeq.reporting.plots import INK, MUTED, SERIES, Plot
from edgeq.results.tuning import TunedFile, TuningResult

_NAMED = ("fp32", "default", "all int8")


def save_tuning_plot(result: TuningResult, path: Path) -> None:
    """Writes the picture as an SVG file.

    A full mark was measured, an empty one estimated from the costs of layers. Bars are 95 % intervals.

    Args:
        result: What was found.
        path: The file.
    """
    scored = [each for each in result.files if each.points is not None and not each.dropped]
    with Plot(7.0, 4.4) as plot:
        axes = plot.axes()
        front = [each for each in scored if each.on_front]
        axes.step(
            [each.latency.ratio for each in front], [each.points or 0.0 for each in front], where="post", color=MUTED,
            linewidth=1.2, linestyle=(0, (4, 3)), label="Pareto front",
        )  # fmt: skip
        for each in scored:
            _mark(axes, each, is_chosen=each.name == result.recommended)
        if (most := result.budget.max_drop) is not None:
            axes.axhline(most, color=MUTED, linewidth=1, label=f"at most {most:g} points lost")
        axes.margins(x=0.08)
        axes.set_xlabel("time over FP32")
        axes.set_ylabel(f"points of {result.score} lost")
        axes.invert_yaxis()
        axes.legend(loc="lower right", labelcolor=INK)
        plot.save(path, _words(result, scored))


def _mark(axes: object, file: TunedFile, *, is_chosen: bool) -> None:
    color = SERIES[1] if is_chosen else SERIES[2] if file.name in _NAMED else SERIES[0]
    ratio, points, loss = file.latency.ratio, file.points or 0.0, file.loss
    reach = None if loss is None else [[max(points - loss.low, 0.0)], [max(loss.high - points, 0.0)]]
    low, high = file.latency.low, file.latency.high
    across = None if low is None or high is None else [[max(ratio - low, 0.0)], [max(high - ratio, 0.0)]]
    filled = color if file.latency.obtained == "measured" else "none"
    axes.errorbar(  # type: ignore[attr-defined]
        [ratio], [points], reach, across, fmt="o", markersize=8 if is_chosen else 6, color=color,
        markerfacecolor=filled, elinewidth=1.0, label="recommended" if is_chosen else None,
    )  # fmt: skip
    axes.annotate(  # type: ignore[attr-defined]
        file.name, (ratio, points), xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK
    )


def _words(result: TuningResult, scored: list[TunedFile]) -> str:
    parts = [
        f"{each.name}: {each.latency.ratio:.2f} of FP32's time, {each.points or 0.0:.2f} points" for each in scored
    ]
    return f"Files of {result.model} for a budget; recommended: {result.recommended}. {'; '.join(parts)}"
