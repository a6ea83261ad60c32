"""The plots of a report: SVG that matplotlib writes, made to live in a page.

Colours become the page's own (so that light, dark and print all fit), text stays text in the page's font, and every
plot says in words what it shows.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.files import sha256_bytes, write_bytes, write_text
from edgeq.reporting.document import Curve, Entry, LatencySeries
from edgeq.tasks.evidence import Diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLESHEET = Path(__file__).parent / "template" / "report.css"

# Colours that stand for those of the page: what matplotlib writes -> a variable of report.css.
INK, MUTED, _GRID, _PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0000{number:02x}" for number in range(16, 23))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _PAPER: "var(--paper)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES)},
}


Box = tuple[float, float, float, float]
"""Left, lower, right and upper end in points."""


@dataclass(frozen=True)
class Palette:
    """The colours of a plot.

    Attributes:
        ink: Of text.
        muted: Of axes' labels, and of what is less important.
        grid: Of lines behind.
        series: Of what is shown.
    """

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


PAGE = Palette(INK, MUTED, _GRID, SERIES)
"""Stands for the colours of a page, light or dark."""

PRINT = Palette(
    "#1d1d1b", "#62625d", "#dcdcd6", ("#55554f", "#0072b2", "#d55e00", "#009e73", "#b2568c", "#c08a00", "#3a9bd1")
)
"""The light colours of the page themselves, for files that are no part of one."""

_PRECISIONS = ("fp32", "int8", "fp16", "dynamic", "int16x8")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeq",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
# Inches of 72 points: about a column of the page; on a phone it is as wide as the screen, and its text stays legible.
_WIDTH, _HEIGHT = 4.7, 3.0
_FEW_TICKS = 5
_HEADROOM = 1.08
# Sizes in points: half of a mark, and what a digit of its number takes.
_MARK_PT, _DIGIT_PT, _LINE_PT = 5.0, 6.5, 9.5
_MARGIN = 0.1


def series_number(entry: Entry) -> int:
    """Returns the number of a row's colour: by the precision of the file, BF16 apart."""
    if entry.compute not in ("", "f32") and entry.precision == "fp32":
        return 5
    return _PRECISIONS.index(entry.precision) if entry.precision in _PRECISIONS else len(SERIES) - 1


def plot_tradeoff(entries: Sequence[Entry], engines: Sequence[str], title: str) -> str:
    """Returns score against median latency of rows that have both, with the Pareto front.

    `engines` are those of the whole page, so that an engine has one mark in all of its plots.
    """
    marks = dict(zip(engines, itertools.cycle(_MARKERS), strict=False))
    with Plot(_WIDTH, _HEIGHT) as plot:
        axes = plot.axes()
        front = sorted((entry for entry in entries if entry.on_front), key=lambda entry: entry.p50_ms or 0)
        times = [entry.p50_ms or 0 for entry in entries]
        scores = [entry.score or 0 for entry in entries]
        if min(times) > 0 and max(times) > 5 * min(times):
            axes.set_xscale("log")
            _plain_log_ticks(axes)
        axes.step(
            [entry.p50_ms or 0 for entry in front], [entry.score or 0 for entry in front],
            where="post", color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2,
        )  # fmt: skip
        for entry in entries:
            color = SERIES[series_number(entry)]
            axes.plot(
                [entry.p50_ms or 0], [entry.score or 0], marks[entry.runtime],
                color=color if entry.stable is not False else "none",
                markeredgecolor=color, markeredgewidth=1.6, markersize=8, url=f"#row-{entry.number}", zorder=3,
            )  # fmt: skip
        if len(engines) > 1:
            for engine in dict.fromkeys(entry.runtime for entry in entries):
                axes.plot([], [], marks[engine], color=MUTED, markersize=6, label=engine)
            plot.figure.legend(loc="outside upper left", ncols=3, handletextpad=0.3, borderpad=0, labelcolor=MUTED)
        axes.margins(x=_MARGIN)  # for the numbers beside the marks
        spread = max(max(scores) - min(scores), 0.01)
        axes.set_ylim(min(scores) - 0.25 * spread, max(scores) + 0.3 * spread)
        _number(axes, entries)
        axes.set_xlabel("p50 latency, ms" + (" (log)" if axes.get_xscale() == "log" else ""))
        axes.set_ylabel(entries[0].score_title())
        words = ", ".join(f"{entry.number}: {entry.p50_ms:.2f} ms, {entry.score:.4f}" for entry in entries)
        return plot.svg(f"{title}. {words}")


def plot_scores(curves: Sequence[tuple[Entry, Curve]], title: str) -> str:
    """Returns F1 against the score threshold, FP32 and others, each with its best threshold marked."""
    with Plot(_WIDTH, _HEIGHT) as plot:
        axes = plot.axes()
        for position, (entry, curve) in enumerate(curves):
            color = SERIES[series_number(entry)]
            # The first one, FP32, lies broad and pale beneath the others: often they are nearly the same.
            width, alpha = (1.4, 1.0) if position else (5.0, 0.4)
            label = f"{entry.number}  {entry.precision_name}, {entry.runtime}"
            axes.plot(curve.curve.thresholds, curve.curve.f1, color=color, label=label, linewidth=width, alpha=alpha)
            best = curve.curve.best_threshold
            axes.plot([best, best], [0, curve.curve.best_f1], color=color, linewidth=1, linestyle=(0, (3, 2)))
            axes.plot([best], [curve.curve.best_f1], "o", color=color, markersize=6)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("score threshold")
        axes.set_ylabel("F1 at IoU .50")
        plot.figure.legend(loc="outside upper left", handlelength=1.6, borderpad=0, labelcolor=INK)
        words = ", ".join(
            f"{entry.number}: best {curve.curve.best_f1:.3f} at {curve.curve.best_threshold:.3f}"
            for entry, curve in curves
        )
        return plot.svg(f"{title}. {words}")


def plot_errors(diagnoses: Sequence[tuple[Entry, Diagnosis]], title: str) -> str:
    """Returns precision by recall and, beside it, how often detections of a score are right."""
    with Plot(_WIDTH, _HEIGHT) as plot:
        grid: Any = plot.figure.subplots(1, 2)
        for position, (entry, diagnosis) in enumerate(diagnoses):
            color = SERIES[series_number(entry)]
            width, alpha = (1.4, 1.0) if position else (5.0, 0.4)
            label = f"{entry.number}  {entry.precision_name}, {entry.runtime}"
            levels = [level / (len(diagnosis.precision) - 1) for level in range(len(diagnosis.precision))]
            grid[0].plot(levels, diagnosis.precision, color=color, label=label, linewidth=width, alpha=alpha)
            filled = [each for each in diagnosis.reliability if each.count]
            grid[1].plot(
                [each.mean_score for each in filled], [each.right for each in filled], "o-", color=color,
                linewidth=width, alpha=alpha, markersize=4,
            )  # fmt: skip
        grid[1].plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        for axes, across, up in (
            (grid[0], "recall", "precision at IoU .50"),
            (grid[1], "score", "share that is right"),
        ):
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xlabel(across)
            axes.set_ylabel(up)
        plot.figure.legend(loc="outside upper left", handlelength=1.6, borderpad=0, labelcolor=INK)
        said = ", ".join(
            f"{entry.number}: expected calibration error {diagnosis.calibration_error or 0:.3f}"
            for entry, diagnosis in diagnoses
        )
        return plot.svg(f"{title}. {said}")


def plot_latency(series: Sequence[tuple[Entry, LatencySeries]], title: str) -> str:
    """Returns, for each row, its runs in order and beside them how they are distributed."""
    with Plot(_WIDTH, 0.55 + 0.82 * len(series)) as plot:
        grid: Any = plot.figure.subplots(
            len(series),
            2,
            squeeze=False,
            sharey="row",
            gridspec_kw={"width_ratios": [4, 1], "wspace": 0.06, "hspace": 0.12},
        )
        for (entry, runs), (over_time, spread) in zip(series, grid, strict=True):
            color = SERIES[series_number(entry)]
            over_time.plot(runs.at, runs.ms, color=color, linewidth=0.9, drawstyle="steps-mid")
            over_time.axhline(entry.p50_ms or 0, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
            over_time.set_ylim(0, _HEADROOM * runs.quantiles_ms[99])
            over_time.set_xlim(0, runs.runs)
            over_time.set_title(
                f"{entry.number}  {entry.precision_name}, {entry.runtime}", loc="left", fontsize=9.5, pad=3, color=INK
            )
            spread.hist(
                runs.quantiles_ms, bins=24, range=(0, _HEADROOM * runs.quantiles_ms[99]), orientation="horizontal",
                color=color,
            )  # fmt: skip
            spread.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)
            spread.grid(visible=False)
            spread.spines["bottom"].set_visible(False)
            over_time.locator_params(axis="y", nbins=3)
            over_time.tick_params(labelbottom=False)
            over_time.grid(visible=False, axis="x")
        grid[-1][0].tick_params(labelbottom=True)
        grid[-1][0].set_xlabel("run, in order; ms")
        words = ", ".join(
            f"{entry.number}: median {entry.p50_ms or 0:.2f} ms, 5th to 95th percentile {runs.quantiles_ms[5]:.2f} to "
            f"{runs.quantiles_ms[95]:.2f}"
            for entry, runs in series
        )
        return plot.svg(f"{title}. {words}")


class Plot:
    """A figure in the report's style, closed with the block that drew it.

    Args:
        width_in: Width in inches.
        height_in: Height in inches.
        palette: Its colours.
    """

    def __init__(self, width_in: float, height_in: float, palette: Palette = PAGE) -> None:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        of = dict(zip((INK, MUTED, _GRID), (palette.ink, palette.muted, palette.grid), strict=True))
        style = {key: of.get(value, value) if isinstance(value, str) else value for key, value in _STYLE.items()}
        self._context = mpl.rc_context(style)
        self._context.__enter__()
        self.figure: Figure = Figure(figsize=(width_in, height_in), layout="constrained")

    def __enter__(self) -> Plot:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)

    def axes(self) -> Axes:
        """Returns the one set of axes."""
        return self.figure.subplots()

    def svg(self, words: str) -> str:
        """Returns the figure as an `<svg>` element for a page, with a description for those who do not see it."""
        stream = io.StringIO()
        self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        return _for_page(stream.getvalue(), words)

    def save_pdf(self, path: Path) -> None:
        """Writes the figure as a PDF file; equal figures are equal bytes."""
        stream = io.BytesIO()
        self.figure.savefig(stream, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
        write_bytes(path, stream.getvalue())

    def save(self, path: Path, words: str) -> None:
        """Writes the figure as an SVG file in the light colours of the page, described in the same way."""
        style = _STYLESHEET.read_text(encoding="utf-8")
        colors = re.search(r":root \{.*?\}", style, re.DOTALL)
        assert colors is not None  # noqa: S101 - the stylesheet is ours
        look = f"{colors[0]} svg {{ font-family: sans-serif; background: var(--paper); }}"
        opening, _, rest = self.svg(words).partition(">")
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        write_text(path, f"{opening.replace('<svg', f'<svg {spaces}', 1)}><style>{look}</style>{rest}\n")


def _for_page(svg: str, words: str) -> str:
    """Returns the root element alone, with the page's colours and font and with ids that no other plot has."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        body = body.replace(color, variable)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    # A hundredth of a point is finer than any screen. Only in elements: between them stand the labels of the axes.
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    prefix = f"p{sha256_bytes(f'{words}{body}'.encode())[:8]}-"
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = re.sub(r'(href="#|url\(#)(?!row-)', rf"\1{prefix}", body)
    opening, _, rest = body.partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    label = escape(words, quote=True)
    return f'<svg class="plot" role="img" aria-label="{label}" {view[0] if view else ""}>{rest.strip()}'


def _number(axes: Axes, entries: Sequence[Entry]) -> None:
    """Writes each mark's number beside it, in the first of four places that is free of marks and other numbers."""
    axes.get_xlim()  # brings the limits up to date
    places = axes.transData.transform([(entry.p50_ms or 0, entry.score or 0) for entry in entries])
    points = places * (72 / axes.figure.dpi)
    taken = [(x - _MARK_PT, y - _MARK_PT, x + _MARK_PT, y + _MARK_PT) for x, y in points]
    for entry, (x, y) in zip(entries, points, strict=True):
        number = str(entry.number)
        width = _DIGIT_PT * len(number)
        offsets = [(dx, dy) for dx in (7, -7 - width) for dy in (5, -14)]
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + _LINE_PT) for dx, dy in offsets]
        free = [place for place, box in enumerate(boxes) if not any(_meet(box, other) for other in taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        axes.annotate(
            number, (entry.p50_ms or 0, entry.score or 0), xytext=offsets[chosen], textcoords="offset points",
            fontsize=9.5, color=INK,
        )  # fmt: skip


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _plain_log_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=_FEW_TICKS * 3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
