"""The picture of a search: points lost against time or size of files scored on all images, with their front."""

from __future__ import annotations

from pathlib import Path

from edgeq.reporting.plots import INK, MUTED, SERIES, Plot
from edgeq.results.tuning import TunedFile, TuningResult

_NAMED = ("fp32", "default", "all int8", "all w4a8")


def save_tuning_plot(result: TuningResult, path: Path) -> None:
    """Writes the picture as an SVG file.

    It is drawn against size if that alone was limited. Otherwise a full mark was measured, an empty one estimated from
    the costs of layers. Bars are 95 % intervals.

    Args:
        result: What was found.
        path: The file.
    """
    scored = [each for each in result.files if each.points is not None and not each.dropped]
    with Plot(7.0, 4.4) as plot:
        axes = plot.axes()
        by_size = result.budget.by_size
        front = sorted((each for each in scored if each.on_front), key=lambda each: _across(each, by_size))
        axes.step(
            [_across(each, by_size) for each in front], [each.points or 0.0 for each in front], where="post",
            color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="Pareto front",
        )  # fmt: skip
        for each in scored:
            _mark(axes, each, by_size, is_chosen=each.name == result.recommended)
        if (most := result.budget.max_drop) is not None:
            axes.axhline(most, color=MUTED, linewidth=1, label=f"at most {most:g} points lost")
        axes.margins(x=0.08)
        axes.set_xlabel("size in MB" if by_size else "time over FP32")
        axes.set_ylabel(f"points of {result.score} lost")
        axes.invert_yaxis()
        axes.legend(loc="lower right", labelcolor=INK)
        plot.save(path, _words(result, scored))


def _across(file: TunedFile, by_size: bool) -> float:
    return file.size_bytes / 1e6 if by_size else file.latency.ratio


def _mark(axes: object, file: TunedFile, by_size: bool, *, is_chosen: bool) -> None:
    color = SERIES[1] if is_chosen else SERIES[2] if file.name in _NAMED else SERIES[0]
    place, points, loss = _across(file, by_size), file.points or 0.0, file.loss
    reach = None if loss is None else [[max(points - loss.low, 0.0)], [max(loss.high - points, 0.0)]]
    low, high = file.latency.low, file.latency.high
    across = [[max(place - low, 0.0)], [max(high - place, 0.0)]] if low and high and not by_size else None
    filled = color if by_size or file.latency.obtained == "measured" else "none"
    axes.errorbar(  # type: ignore[attr-defined]
        [place], [points], reach, across, fmt="o", markersize=8 if is_chosen else 6, color=color,
        markerfacecolor=filled, elinewidth=1.0, label="recommended" if is_chosen else None,
    )  # fmt: skip
    axes.annotate(  # type: ignore[attr-defined]
        file.name, (place, points), xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK
    )


def _words(result: TuningResult, scored: list[TunedFile]) -> str:
    parts = [
        f"{each.name}: {each.latency.ratio:.2f} of FP32's time, {each.size_bytes / 1e6:.3g} MB, "
        f"{each.points or 0.0:.2f} points"
        for each in scored
    ]
    return f"Files of {result.model} for a budget; recommended: {result.recommended}. {'; '.join(parts)}"
