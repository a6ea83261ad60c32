"""The plots of a study: score against bits per weight, parts alone, importance. Each is for a page or for print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeq.reporting.plots import PAGE, Palette, Plot
from edgeq.results.study import FP16, UNIFORM_8, StudyImportance, StudyPoint, StudyResult

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 4.7, 3.2
_ROW = 0.42
_LINE = 0.17
"""Height of a line of a legend, in inches."""

_MOST_CURVES = 7
_FLOAT = 16
_MARKS = {FP16: "s", UNIFORM_8: "D"}
"""Name of a trial that every study has -> its marker."""

_ROOM = 0.05
"""Empty share of an axis at each end."""

_CROWD = 60
"""From so many trials on intervals are drawn on the front alone."""


@dataclass(frozen=True)
class StudyFigure:
    """A plot of a study.

    Attributes:
        name: Stem of its file.
        title: Its caption.
        words: What it shows, for those who do not see it.
        height_in: Its height in inches.
        draw: Draws it.
    """

    name: str
    title: str
    words: str
    height_in: float
    draw: Callable[[Axes, Palette], None]

    def svg(self) -> str:
        """Returns the plot as an element of a page."""
        with Plot(_WIDTH, self.height_in) as plot:
            self.draw(plot.axes(), PAGE)
            return plot.svg(f"{self.title}. {self.words}")

    def save_pdf(self, path: Path, palette: Palette) -> None:
        """Writes the plot as a PDF file."""
        with Plot(_WIDTH, self.height_in, palette) as plot:
            self.draw(plot.axes(), palette)
            plot.save_pdf(path)


def figures(result: StudyResult) -> list[StudyFigure]:
    """Returns the plots of a study."""
    timed = [each for each in result.front if each.measured is not None]
    found = [_front(result), *([_times(result, timed)] if timed else [])]
    for key in dict.fromkeys(map(_stored, filter(_is_uniform, result.points))):
        points, (method, granularity) = [each for each in result.points if _stored(each) == key], key
        curves = _curves(points, result.cells)
        if curves:
            found.append(_alone(result, method, granularity, curves))
    found += [_importance(each) for each in result.importance]
    return found


def _is_uniform(point: StudyPoint) -> bool:
    return point.bits is not None


def _stored(point: StudyPoint) -> tuple[str, str]:
    """Returns how a trial is quantized but for its bits: the method, and what shares a scale."""
    images = f" c{point.calibration}" if point.calibration else ""
    return point.method, point.granularity + images + ("" if point.activation == _FLOAT else f" a{point.activation}")


def _front(result: StudyResult) -> StudyFigure:
    front, methods = result.front, list(dict.fromkeys(each.method for each in result.points))

    def draw(axes: Axes, palette: Palette) -> None:
        axes.step(
            [each.bits_per_weight for each in front], [each.loss.points for each in front], where="post",
            color=palette.muted, linewidth=1.2, linestyle=(0, (4, 3)), label="Pareto front",
        )  # fmt: skip
        for number, method in enumerate(methods):
            color = palette.series[number % len(palette.series)]
            points = [each for each in result.points if each.method == method]
            crowded = len(result.points) >= _CROWD
            shown = [each for each in points if not each.useless and (each.on_front or not crowded)]
            axes.errorbar(
                [each.bits_per_weight for each in shown], [each.loss.points for each in shown], _reach(shown),
                fmt="none", ecolor=color, elinewidth=0.8, alpha=0.6,
            )  # fmt: skip
            axes.plot(
                [each.bits_per_weight for each in points], [each.loss.points for each in points], "o", color=color,
                markersize=4, alpha=0.8, label=method or "16 bits", linestyle="none",
            )  # fmt: skip
        for point in result.points:
            if point.name in _MARKS:
                axes.plot(
                    [point.bits_per_weight], [point.loss.points], _MARKS[point.name], color=palette.ink, markersize=8,
                    markerfacecolor="none", label=point.name, linestyle="none",
                )  # fmt: skip
        if result.confirmation is not None:
            axes.axhline(result.confirmation.max_drop, color=palette.muted, linewidth=0.8)
        axes.set_ylim(*_shown_losses(result))
        axes.set_xlabel("bits per weight, scales included")
        axes.set_ylabel(f"points of {result.score} lost")
        _legend(axes, palette, 3)

    words = "; ".join(f"{each.bits_per_weight:.2f} bits: {each.loss.points:+.2f} points, {each.name}" for each in front)
    beyond = sum(bool(each.useless) for each in result.points)
    title = f"Points of {result.score} lost against bits per weight"
    title += f"; {beyond:,} useless trials may be below" if beyond else ""
    return StudyFigure("front", title, words, _HEIGHT + 3 * _LINE, draw)


def _times(result: StudyResult, points: Sequence[StudyPoint]) -> StudyFigure:
    """Returns what the points of the front lose against the time of their files."""
    timed = [(each, each.measured) for each in points if each.measured is not None]

    def draw(axes: Axes, palette: Palette) -> None:
        ratios = [measured.ratio for _, measured in timed]
        reach = [
            [max(each.ratio - (each.low or each.ratio), 0.0) for _, each in timed],
            [max((each.high or each.ratio) - each.ratio, 0.0) for _, each in timed],
        ]
        axes.errorbar(
            ratios, [each.loss.points for each in points], _reach(points), reach, fmt="o", color=palette.series[0],
            markersize=4, elinewidth=0.8,
        )  # fmt: skip
        for point, measured in timed:
            axes.annotate(
                f"{point.bits_per_weight:.2f}", (measured.ratio, point.loss.points), xytext=(4, 4),
                textcoords="offset points", color=palette.ink, fontsize=8,
            )  # fmt: skip
        axes.axvline(1.0, color=palette.muted, linewidth=0.8)
        axes.invert_yaxis()
        axes.set_xlabel("time of the file over FP32's")
        axes.set_ylabel(f"points of {result.score} lost")

    words = "; ".join(
        f"{each.bits_per_weight:.2f} bits: {found.p50_ms:.2f} ms, {found.ratio:.2f} of FP32's time"
        for each, found in timed
    )
    title = f"Points of {result.score} lost against time, by bits per weight"
    return StudyFigure("times", title, words, _HEIGHT, draw)


def _shown_losses(result: StudyResult) -> tuple[float, float]:
    """Returns the lower and the upper end of the axis of losses, which hold the trials of use: it points down."""
    shown = [each for each in result.points if not each.useless] or list(result.points)
    least, most = min(each.loss.points for each in shown), max(each.loss.points for each in shown)
    least = min([least, *(each.loss.low for each in result.front)])
    most = max([most, *(each.loss.high for each in result.front)])
    room = _ROOM * (most - least) or 1.0
    return most + room, least - room


def _curves(points: Sequence[StudyPoint], cells: Mapping[str, Sequence[str]]) -> dict[str, list[StudyPoint]]:
    """Returns which layers -> the points of several bits, fewest first; the ones that lose most are kept.

    Of cells only those that hold no other one: what they lose together is in the table of pairs.
    """
    layers = {name: frozenset(each) for name, each in cells.items()}
    together = {name for name, each in layers.items() if any(other < each for other in layers.values())}
    found: dict[str, list[StudyPoint]] = {}
    for point in sorted(points, key=lambda each: each.bits or 0):
        if point.bits is not None and point.where not in together:
            found.setdefault(point.where, []).append(point)
    several = {where: each for where, each in found.items() if len(each) > 1}
    worst = sorted(several, key=lambda where: -max(each.loss.points for each in several[where]))
    return {where: several[where] for where in worst[:_MOST_CURVES]}


def _alone(result: StudyResult, method: str, granularity: str, curves: dict[str, list[StudyPoint]]) -> StudyFigure:
    def draw(axes: Axes, palette: Palette) -> None:
        for number, (where, points) in enumerate(curves.items()):
            axes.errorbar(
                [each.bits or 0 for each in points], [each.loss.points for each in points], _reach(points), fmt="o-",
                color=palette.series[number % len(palette.series)], markersize=4, linewidth=1.2, elinewidth=0.8,
                label=where,
            )  # fmt: skip
        axes.invert_yaxis()
        axes.set_xlabel("bits")
        axes.set_ylabel(f"points of {result.score} lost")
        _legend(axes, palette, 1)

    words = "; ".join(
        f"{where}: {', '.join(f'{each.bits} bits {each.loss.points:+.2f}' for each in points)}"
        for where, points in curves.items()
    )
    title = f"What parts lose by {method} ({granularity}), all else in FP16"
    name = f"bits_{method.replace('+', '_')}_{granularity.replace(' ', '_')}"
    return StudyFigure(name, title, words, _HEIGHT + _LINE * len(curves), draw)


def _importance(found: StudyImportance) -> StudyFigure:
    measures = {
        "forest": [each.forest for each in found.parts],
        "permutation": [each.permutation for each in found.parts],
    }
    by_shap = [each.shap for each in found.parts if each.shap is not None]
    if by_shap:
        measures["SHAP"] = by_shap

    def draw(axes: Axes, palette: Palette) -> None:
        thickness = 0.8 / (1 + len(measures))
        for number, (name, shares) in enumerate(measures.items()):
            places = [index + number * thickness for index in range(len(shares))]
            reach = [
                [max(each.value - each.low, 0) for each in shares],
                [max(each.high - each.value, 0) for each in shares],
            ]
            color = palette.series[1 + number]
            axes.barh(
                places, [each.value for each in shares], thickness, color=color, xerr=reach, ecolor=palette.ink,
                error_kw={"elinewidth": 0.8}, label=name,
            )  # fmt: skip
        places = [index + len(measures) * thickness for index in range(len(found.parts))]
        axes.barh(
            places, [each.consensus for each in found.parts], thickness, color=palette.series[0], label="consensus"
        )
        axes.set_yticks([index + len(measures) * thickness / 2 for index in range(len(found.parts))])
        axes.set_yticklabels([each.part for each in found.parts])
        axes.invert_yaxis()
        axes.set_xlabel("share of the importance")
        _legend(axes, palette, 4)

    words = "; ".join(f"{each.part}: consensus {each.consensus:.2f}" for each in found.parts)
    title = f"Importance by {found.axis}, {found.method} (R² {found.forest_r2:.2f} out of bag)"
    name = f"importance_{found.axis}_{found.method.replace('+', '_')}"
    return StudyFigure(name, title, words, max(_HEIGHT, _ROW * 2 * len(found.parts)) + _LINE, draw)


def _legend(axes: Axes, palette: Palette, columns: int) -> None:
    """Draws the legend above the axes, where it hides nothing."""
    figure: Any = axes.figure
    figure.legend(loc="outside upper left", ncols=columns, labelcolor=palette.ink, handlelength=1.6, borderpad=0)


def _reach(points: Sequence[StudyPoint]) -> list[list[float]]:
    return [
        [max(each.loss.points - each.loss.low, 0.0) for each in points],
        [max(each.loss.high - each.loss.points, 0.0) for each in points],
    ]
