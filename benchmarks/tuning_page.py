"""The page of `benchmarks.tuning`: a table per model and engine, what NNCF made next to it, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.cases import cpu_and_threads
from benchmarks.scored_models import TUNED
from benchmarks.tuned_files import NNCF, THREADS
from benchmarks.tuning_cases import CERTAIN_FACE, FACES
from edgeq.machine import read_machine
from edgeq.reporting.plots import INK, MUTED, SERIES, Plot
from edgeq.tuning.front import pareto

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

HEAD = (
    "file", "score", "points lost", "points over NNCF", "time / FP32", "time / NNCF", "MB", "INT8 layers", "trials",
    "CPU minutes",
)  # fmt: skip
SUMMARY = ("model", "engine", "NNCF: points lost", "time", "MB", "edgeq: points lost", "time", "MB", "edgeq's front")
LOSSES = (
    "model", "engine", "points lost: default INT8", "time", "edgeq's file", "time", "NNCF without control",
    "NNCF accuracy control", "CPU minutes",
)  # fmt: skip
LITERT = "litert"
HALF = "tuned for half of default's time"
_COLUMNS = 2


@dataclass(frozen=True)
class Section:
    """A model in an engine.

    Attributes:
        name: Of the model.
        engine: The engine.
        calibrated: How many images it was calibrated on.
        rows: Its files, FP32 first, with their times where they were taken.
        kept: Reasons of layers that the file tuned for a loss keeps in float.
        load: Load average before times were taken; `None` if it is not known.
        stable: Whether the machine was steady.
    """

    name: str
    engine: str
    calibrated: int
    rows: Sequence[Mapping[str, Any]]
    kept: Sequence[str]
    load: float | None
    stable: bool

    @classmethod
    def of(cls, found: Mapping[str, Any], times: Mapping[str, Any]) -> Section:
        """Returns what was kept of a model in an engine, and its times, as one."""
        rows = [{**row, **times["files"].get(row.get("path"), {})} for row in found["rows"]]
        return cls(
            found["name"], found["engine"], found["calibrated"], rows, found["kept"], times["load"], times["stable"]
        )

    @property
    def title(self) -> str:
        """What tables call the model."""
        return TUNED[self.name].subject.title

    @property
    def place(self) -> str:
        """What tables call the engine."""
        return f"{self.engine} on x86, not on ARM" if self.engine == LITERT else self.engine

    @property
    def peer(self) -> Mapping[str, Any] | None:
        """NNCF's file; `None` if it found none."""
        return self.row(NNCF)

    def row(self, title: str) -> Mapping[str, Any] | None:
        """Returns a file by its title; `None` if there is none."""
        return next((row for row in self.rows if row["title"] == title and "score" in row), None)

    @property
    def own(self) -> list[Mapping[str, Any]]:
        """The INT8 files of edgeq."""
        return [row for row in self.rows[1:] if "score" in row and not row["title"].startswith("NNCF")]

    @property
    def nearest(self) -> tuple[Mapping[str, Any], str]:
        """The file of edgeq that is nearest to bettering NNCF's in everything, and how it compares, in words.

        Without a file of NNCF it is the file tuned for a loss; where no layer runs in INT8, it is FP32.
        """
        peer = self.peer
        tuned = next((row for row in self.own if row["title"].startswith("tuned")), self.rows[0])
        if peer is None:
            return tuned, "nothing to compare with"
        for is_better, how in ((_is_no_worse, ""), (_may_be_no_worse, " within the intervals")):
            found = [row for row in self.own or self.rows[:1] if is_better(row)]
            smaller = [row for row in found if row["size"] <= peer["size"]]
            if found:
                best = max(smaller or found, key=lambda row: (_gain(row)[0], -row["peer_ratio"][0]))
                return best, f"dominates{'' if smaller else ' in points and time'}{how}"
        return tuned, "does not dominate"

    def lines(self) -> list[str]:
        """Returns the table, and below it what it was measured with."""
        score = self.rows[0]["score"]
        truth = " (truth: what FP32 finds)" if self.name in FACES else ""
        notes = [row["why"] for row in self.rows if "score" not in row]
        lines = [
            f"## {self.title} in {self.place}: {score['name']} of {score['images']} images{truth}",
            "",
            f"Calibrated on {self.calibrated} images.",
            "",
            f"| {' | '.join(HEAD)} |",
            f"|---{'|---:' * (len(HEAD) - 1)}|",
            *(self._line(row, notes) for row in self.rows),
            *_footnotes(notes),
        ]
        if self.load is not None:
            state = "" if self.stable else "; it was not steady"
            usable = read_machine().usable_cpus
            lines += ["", f"Load average before timing: {self.load:.1f} on {usable} CPUs{state}."]
        kept = [f"- {each}" for each in self.kept]
        return [
            *lines,
            "",
            *(["The file tuned for a loss keeps in float, among others:", "", *kept, ""] if kept else []),
        ]

    def _line(self, row: Mapping[str, Any], notes: list[str]) -> str:
        """Returns the line of a file; where there is none for a time, that of the fastest file."""
        if "score" in row:
            return _joined(row["title"], *_cells(row), row.get("layers", ""), row.get("trials", ""), _minutes(row))
        none = f"none [{notes.index(row['why']) + 1}]"
        timed = [each for each in self.own if "ratio" in each]
        if row["title"] != HALF or not timed:
            return _joined(row["title"], none, *[""] * (len(HEAD) - 2))
        nearest = min(timed, key=lambda each: each["ratio"][0])
        title = f"{row['title']}: {none}; the fastest here: {nearest['title']}"
        return _joined(title, *_cells(nearest), nearest.get("layers", ""), "", "")


def _is_no_worse(row: Mapping[str, Any]) -> bool:
    """Returns whether a file is no worse than NNCF's in points and time."""
    return bool(_gain(row)[0] >= 0 and row["peer_ratio"][0] <= 1)


def _may_be_no_worse(row: Mapping[str, Any]) -> bool:
    """Returns whether a file is not certainly worse than NNCF's in points or time."""
    most = _gain(row)[2]
    return bool(row["peer_ratio"][1] <= 1 and (most is None or most >= 0))


def _gain(row: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the points over NNCF's file with their interval: none of a file that is the same, as FP32 can be."""
    gain: Sequence[Any] = row.get("gain", (0.0, 0.0, 0.0))
    return gain


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a file from its score to its size."""
    return (
        f"{row['score']['value']:.4f}",
        _points(row.get("drop")),
        _points(row.get("gain")),
        _ratio(row.get("ratio")),
        _ratio(row.get("peer_ratio")),
        f"{row['size'] / 1e6:.2f}",
    )


def _minutes(row: Mapping[str, Any]) -> str:
    return "" if "minutes" not in row else f"{row['minutes']:.1f}"


def _joined(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _footnotes(notes: Sequence[str]) -> list[str]:
    """Returns the lines that say why files are missing."""
    return [line for number, note in enumerate(notes, start=1) for line in ("", f"[{number}] {note}.")]


def _points(change: Sequence[float | None] | None) -> str:
    if change is None:
        return ""
    points, low, high = (None if each is None else round(each, 2) + 0.0 for each in change)  # no -0.00
    return f"{points:+.2f}" if low is None or high is None else f"{points:+.2f} ({low:+.2f} to {high:+.2f})"


def _ratio(ratio: Sequence[float] | None) -> str:
    return "" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def page(sections: Sequence[Section], missing: Sequence[str]) -> str:
    """Returns the page.

    Args:
        sections: What was measured.
        missing: What was not, in words.
    """
    notes = [_why_no_peer(each) for each in sections if each.peer is None and each.engine != LITERT]
    lines = [
        "# Files tuned for a budget, and NNCF's accuracy control",
        "",
        "NNCF's file next to that file of edgeq which is nearest to bettering it in points, time and size at once. "
        "It dominates if it is no worse in any of them; in points and time, if it is larger; and within the intervals, "
        "if it is not certainly worse in points or time. Times are shares of FP32's.",
        "",
        f"| {' | '.join(SUMMARY)} |",
        f"|---|---{'|---:' * (len(SUMMARY) - 3)}|---|",
        *(_summary(each, notes) for each in sections),
        *_footnotes(notes),
        "",
        "What INT8 loses, and the file that edgeq tuned for 0.3 points. Without control is what NNCF's control starts "
        "from; the minutes are those that it took.",
        "",
        f"| {' | '.join(LOSSES)} |",
        f"|---|---{'|---:' * (len(LOSSES) - 2)}|",
        *map(_losses, sections),
        "",
        "![Points lost against time of all files](tuning.svg)",
        "",
    ]
    for each in sections:
        lines += each.lines()
    if any(each.name in FACES for each in sections):
        lines += [
            f"Faces: no annotated faces are at hand. The truth is what the float model finds with a score of at least "
            f"{CERTAIN_FACE:g}, so AP says how far a file agrees with FP32, and not how good it is.",
            "",
        ]
    lines += [f"Not run: {', '.join(missing)}.", ""] if missing else []
    return "\n".join([*lines, provenance(), ""])


def _losses(section: Section) -> str:
    """Returns the points lost of the default file, of the tuned one, and of what NNCF starts from and ends with."""
    cells = []
    for title in ("default INT8", "tuned for 0.3 points"):
        row = section.row(title)
        cells += ["none", ""] if row is None else [_lost_points(row), f"{row['ratio'][0]:.2f}"]
    start, end = section.row("NNCF without control"), section.row(NNCF)
    minutes = "" if end is None else _minutes(end)
    cells += ["" if start is None else _lost_points(start), "" if end is None else _lost_points(end), minutes]
    return _joined(section.title, section.place, *cells)


def _lost_points(row: Mapping[str, Any]) -> str:
    return _points(row.get("drop")) or "FP32 itself"


def _why_no_peer(section: Section) -> str:
    why = next((each["why"] for each in section.rows if each["title"] == NNCF), "not run")
    return f"{section.title} in {section.engine}: {why}"


def _summary(section: Section, notes: list[str]) -> str:
    own, words = section.nearest
    cells = []
    for row in (section.peer, own):
        if row is None and section.engine == LITERT:
            cells += ["writes no TFLite files", "", ""]
        elif row is None:
            cells += [f"none [{notes.index(_why_no_peer(section)) + 1}]", "", ""]
        else:
            cells += [_points(row.get("drop")), f"{row['ratio'][0]:.2f}", f"{row['size'] / 1e6:.2f}"]
    return _joined(section.title, section.place, *cells, f"{words} ({own['title']})")


def provenance() -> str:
    """Returns what the figures were measured with."""
    from importlib.metadata import version

    import onnxruntime
    import openvino

    return (
        f"Measured in OpenVINO {openvino.__version__}, ONNX Runtime {onnxruntime.__version__} and LiteRT "
        f"{version('ai-edge-litert')}, whose times are not those of ARM, on "
        f"{cpu_and_threads(read_machine(), THREADS)}, float layers in FP32; the files of a model take turns, each in a "
        "fresh process. In brackets: 95 % intervals, of points over images (paired bootstrap), of times over rounds. "
        "Trials: files that were scored; of NNCF, images scored over images of the data set. Minutes are those of the "
        "CPU, all threads together; none of a search that was interrupted. Later searches know the trials of the "
        "first. Where no file takes half of the default file's time, the row shows the fastest of the table, and the "
        "note the nearest that the search tried. The loss is judged by its estimate (`--unproved`). NNCF without "
        "control is the file that its control starts from; its weights are stored in float, so its size says nothing. "
        "NNCF's INT8 layers are convolutions and matrix products."
    )


def save_fronts(sections: Sequence[Section], path: Path) -> None:
    """Writes a picture of all files by points lost and time, a panel per model and engine.

    Args:
        sections: What was measured.
        path: The SVG file.
    """
    if not sections:
        return
    rows = -(-len(sections) // _COLUMNS)
    with Plot(4.2 * _COLUMNS, 2.7 * rows) as plot:
        panels = plot.figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
        words = [_draw(axes, each) for axes, each in zip(panels, sections, strict=False)]
        for axes in panels[len(sections) :]:
            axes.set_visible(False)
        marks, labels = panels[0].get_legend_handles_labels()
        plot.figure.legend(marks, labels, loc="outside upper center", ncols=3, labelcolor=INK)
        plot.save(path, f"Points lost against time over FP32's. {' '.join(words)}")


def _draw(axes: Axes, section: Section) -> str:
    """Draws the panel of a model in an engine; returns it in words."""
    own = [(_lost(row), row["ratio"][0]) for row in (section.rows[0], *section.own)]
    front = sorted((own[index] for index in pareto(own)), key=lambda each: each[1])
    axes.step(
        [time for _, time in front], [points for points, _ in front], where="post", color=MUTED, linewidth=1.2,
        linestyle=(0, (4, 3)), label="front of edgeq's files",
    )  # fmt: skip
    for row in section.own:
        _mark(axes, row, SERIES[0], "o", "edgeq" if row is section.own[0] else None)
    peers = [(section.peer, NNCF, "D")]
    peers.append((section.row("NNCF without control"), "its start", "v"))
    for peer, label, marker in peers:
        if peer is not None:
            _mark(axes, peer, SERIES[1], marker, label)
    axes.plot([1], [0], "s", color=INK, markersize=5, label="FP32")
    axes.invert_yaxis()
    axes.set_title(f"{section.title}, {section.engine}", fontsize=10, color=INK)
    axes.set_xlabel("time over FP32")
    axes.set_ylabel(f"points of {section.rows[0]['score']['name']} lost")
    peer = section.peer
    other = "none of NNCF" if peer is None else f"NNCF {peer['ratio'][0]:.2f} and {_lost(peer):+.2f}"
    best, _ = section.nearest
    return f"{section.title} in {section.engine}: {best['ratio'][0]:.2f} and {_lost(best):+.2f} points, {other}."


def _lost(row: Mapping[str, Any]) -> float:
    return float(row["drop"][0]) if "drop" in row else 0.0


def _mark(axes: Axes, row: Mapping[str, Any], color: str, marker: str, label: str | None) -> None:
    points, low, high = row.get("drop", (0.0, None, None))  # a search may have taken FP32
    reach = None if low is None or high is None else [[max(points - low, 0.0)], [max(high - points, 0.0)]]
    axes.errorbar(
        [row["ratio"][0]], [points], reach, fmt=marker, markersize=6, color=color, elinewidth=0.8, label=label
    )
