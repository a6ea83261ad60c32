"""The report as one HTML file: opens without a network, in a browser, on a phone and on paper.

Everything that comes from results is escaped by the template engine; a Content-Security-Policy allows the page nothing
but its own script, by digest, and images that lie in it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import MissingDependencyError
from edgeq.reporting.comparison import FEW, Drop
from edgeq.reporting.compiled import FIGURES, NOTE, TEXTS, cells, compiler_name, difference
from edgeq.reporting.confusion_matrix import Matrix, confusion_matrix
from edgeq.reporting.document import Differences, Document, Entry, Errors, Loss
from edgeq.reporting.index import META, ReportFacts
from edgeq.reporting.layer_plot import layer_plots
from edgeq.reporting.plot_groups import error_plots, latency_plots, score_plots, tradeoffs
from edgeq.reporting.plots import series_number
from edgeq.reporting.thumbnail import Pictures, pictures
from edgeq.results.measurement import MAX_DRIFT
from edgeq.results.rows import LOCAL
from edgeq.results.serialization import to_json
from edgeq.tasks import get_task
from edgeq.tasks.resampling import CONFIDENCE, RESAMPLES
from edgeq.wording import counted

_TEMPLATE = Path(__file__).parent / "template"
_CLASSES_SHOWN = 8
_CONFUSIONS_SHOWN = 8
_LAYERS_SHOWN = 8
_NODES_SHOWN = 4
_TENSORS_SHOWN = 12
_SPARK_WIDTH, _SPARK_HEIGHT = 144, 28
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A cell of the overview.

    Attributes:
        text: What it says.
        key: What it is sorted by; `None` for what was not measured, which comes last either way.
        note: Small print below it.
    """

    text: str
    key: float | str | None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the overview.

    Attributes:
        title: Its heading.
        unit: Unit of its figures.
        cells: One a row.
        numeric: Whether it holds figures.
    """

    title: str
    unit: str
    cells: tuple[Cell, ...]
    numeric: bool = True


def require_packages() -> None:
    """Checks that what writes pages is installed.

    Raises:
        MissingDependencyError: it is not.
    """
    for module in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(module, "report", "An HTML report")


def render(document: Document, images_dirs: Sequence[Path] = ()) -> str:
    """Returns the page.

    Args:
        document: What it says.
        images_dirs: Folders of the scored images; boxes on others are drawn on empty ground.

    Raises:
        InputError: an image cannot be read.
        MissingDependencyError: a package is not installed.
    """
    require_packages()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(points=_points, signed=_signed, number=_number, percent=_percent, short=_short)
    environment.filters["breakable"] = _breakable
    style, script = ((_TEMPLATE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    columns, unmeasured = _overview(document)
    page: str = environment.get_template("report.html").render(
        document=document,
        title=_title(document),
        lede=_lede(document),
        findings=_findings(document),
        facts=_facts(document),
        facts_name=META,
        columns=columns,
        unmeasured=unmeasured,
        facets=_facets(document),
        tradeoffs=tradeoffs(document),
        score_plots=score_plots(document),
        latency_plots=latency_plots(document),
        error_plots=error_plots(document),
        confusions_shown=_CONFUSIONS_SHOWN,
        matrix=_matrix,
        layer_plots=layer_plots(document),
        layers_shown=_LAYERS_SHOWN,
        nodes_shown=_NODES_SHOWN,
        examples=_examples(document, images_dirs),
        compiled_titles={"texts": TEXTS, "figures": FIGURES},
        compiled_cells=cells,
        compiled_note=NOTE,
        compiler_name=compiler_name,
        difference=difference,
        spark=_spark,
        series=series_number,
        shown_series={series_number(entry) for entry in document.entries},
        parts_by=_parts_by(document),
        label=_label,
        largest_drop=_largest_drop,
        few=FEW,
        resamples=RESAMPLES,
        confidence=f"{CONFIDENCE:.0%}",
        max_drift=f"{MAX_DRIFT:.0%}",
        classes_shown=_CLASSES_SHOWN,
        tensors_shown=_TENSORS_SHOWN,
        spark_width=_SPARK_WIDTH,
        spark_height=_SPARK_HEIGHT,
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return page.lstrip()


def _title(document: Document) -> str:
    models = list(dict.fromkeys(entry.model for entry in document.entries))
    models = models or list(dict.fromkeys(each.file.name for each in document.compiled))
    return ", ".join(models[:3]) + (f" and {len(models) - 3} more" if len(models) > 3 else "")


def _lede(document: Document) -> str:
    entries = document.entries
    counts = {
        "result": len(entries),
        "model": len({entry.model for entry in entries}),
        "engine": len({entry.engine for entry in entries}),
        "device": len({entry.device for entry in entries}),
        "compiled file": len(document.compiled),
    }
    return ", ".join(counted(count, name) for name, count in counts.items() if count)


def _findings(document: Document) -> list[tuple[Entry, str, str]]:
    """Returns, for each model and device, the verdict on its fastest quantized file, and what that rests on."""
    found = [(document.entry(each.entry), each.sentence) for each in document.verdicts]
    return [(entry, verdict, _finding(entry)) for entry, verdict in found]


def _facts(document: Document) -> str:
    """Returns what the page says of itself, for an index over reports."""
    verdicts = [f"{document.entry(each.entry).model}: {each.sentence}" for each in document.verdicts]
    facts = ReportFacts(_title(document), _lede(document), document.written, tuple(verdicts))
    return json.dumps(to_json(facts))


def _finding(entry: Entry) -> str:
    drop = entry.drop
    if drop is None or entry.ratio_to_fp32 is None:
        return ""
    where = entry.engine if entry.device == LOCAL else f"{entry.engine} on {entry.device}"
    title = entry.score_title(drop.name)
    beside = "level with" if round(drop.points, 2) == 0 else _side(drop, drop.points)
    proof = ""
    if drop.low is not None and drop.high is not None:
        proof = f" ({CONFIDENCE:.0%} interval: {_side(drop, drop.low)} to {_side(drop, drop.high)})"
    unstable = "; its run was not stable" if entry.stable is False else ""
    return (
        f"{entry.precision_name} in {where} is {_speed(entry.ratio_to_fp32)} FP32; {title} "
        f"{drop.value:.4f} is {beside} FP32{proof}, over {entry.images} images{unstable}."
    )


def _speed(ratio: float) -> str:
    """Returns how a time that is this multiple of FP32's compares with it, as a speed-up."""
    factor = f"{1 / ratio if ratio < 1 else ratio:.2f}"
    if factor == "1.00":
        return "as fast as"
    return f"{factor}x {'faster' if ratio < 1 else 'slower'} than"


def _side(drop: Drop, points: float) -> str:
    """Returns how far below or above FP32 so many points of a drop are; what rounds to zero is on no side."""
    if round(points, 2) == 0:
        return "0.00"
    below = points < 0 if drop.lower_is_better else points > 0
    return f"{abs(points):.2f} points {'below' if below else 'above'}"


def _overview(document: Document) -> tuple[list[Column], list[str]]:
    """Returns the columns that hold something, and the names of those that nothing was measured for."""
    entries = document.entries
    titles = {entry.score_title() for entry in entries if entry.score_name}
    columns = [
        Column(
            next(iter(titles)) if len(titles) == 1 else "score",
            "",
            tuple(_score_cell(entry, alone=len(titles) == 1) for entry in entries),
        ),
        Column("below FP32", "points", tuple(_drop_cell(entry) for entry in entries)),
        Column("p50", "ms", tuple(_latency_cell(entry) for entry in entries)),
        _figures("p90", "ms", entries, lambda entry: entry.p90_ms, 2),
        _figures("GPU", "ms", entries, lambda entry: entry.gpu_ms, 2),
        _figures("time / FP32", "", entries, lambda entry: entry.ratio_to_fp32, 2),
        _figures("size", "MB", entries, lambda entry: _scaled(entry.size_bytes), 2),
        _figures("memory", "MB", entries, lambda entry: _scaled(entry.memory_bytes), 0),
        _figures("energy", "J / image", entries, lambda entry: entry.j_per_image, 3),
    ]
    filled = [column for column in columns if any(cell.key is not None for cell in column.cells)]
    unmeasured = [column.title for column in columns if column not in filled and column.title != "GPU"]
    return filled, unmeasured


def _figures(
    title: str, unit: str, entries: Iterable[Entry], value: Callable[[Entry], float | None], digits: int
) -> Column:
    found = [value(entry) for entry in entries]
    cells = (_missing() if figure is None else Cell(f"{figure:.{digits}f}", figure) for figure in found)
    return Column(title, unit, tuple(cells))


def _latency_cell(entry: Entry) -> Cell:
    """Returns the median, marked where the run was in no steady state, and what comes before and after inference."""
    if entry.p50_ms is None:
        return _missing()
    around = {"pre": entry.preprocess_ms, "post": entry.postprocess_ms}
    note = ", ".join(f"{name} {ms:.2f}" for name, ms in around.items() if ms is not None)
    return Cell(f"{'~' if entry.stable is False else ''}{entry.p50_ms:.2f}", entry.p50_ms, note)


def _score_cell(entry: Entry, *, alone: bool) -> Cell:
    if entry.score is None or entry.score_name is None:
        return _missing()
    return Cell(f"{entry.score:.4f}", entry.score, "" if alone else entry.score_title())


def _drop_cell(entry: Entry) -> Cell:
    if entry.score is None:
        return _missing()
    if entry.reference == entry.number:
        return Cell("reference", 0.0)
    if entry.drop is None:
        return Cell("no FP32", None)
    note = "no interval" if entry.drop.low is None else _range(entry.drop.low, entry.drop.high or 0)
    return Cell(_signed(entry.drop.points), entry.drop.points, note)


def _missing() -> Cell:
    return Cell("not measured", None)


def _scaled(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _facets(document: Document) -> dict[str, list[str]]:
    """Returns what the overview can be filtered by: only what differs among the rows."""
    facets = {
        "device": sorted({entry.device for entry in document.entries}),
        "engine": sorted({entry.engine for entry in document.entries}),
        "precision": sorted({entry.precision_name for entry in document.entries}),
    }
    return {name: values for name, values in facets.items() if len(values) > 1}


def _label(entry: Entry) -> str:
    """Returns what tells a row from the others of its model."""
    place = "" if entry.device == LOCAL else f" on {entry.device}"
    return f"{entry.precision_name}, {entry.runtime}{place}"


def _examples(document: Document, folders: Sequence[Path]) -> list[tuple[Differences, list[Pictures]]]:
    found = []
    for each in document.differences:
        task = get_task(document.entry(each.entry).task or "")
        found.append((each, [pictures(task, example, folders) for example in each.examples]))
    return found


def _matrix(document: Document, errors: Errors) -> Matrix:
    reference = [each.diagnosis.confusions for each in document.errors if each.entry == errors.reference]
    return confusion_matrix(errors.diagnosis.confusions, reference[0] if reference else None)


def _parts_by(document: Document) -> str:
    """Returns what tells the parts of main scores apart, where a row has such parts."""
    named = (document.entry(loss.entry).parts_by for loss in document.losses if len(loss.areas) > 1)
    return " and ".join(dict.fromkeys(named))


def _largest_drop(loss: Loss) -> float:
    """Returns the largest change of any class, in points: the length of a whole bar."""
    return max((abs(drop.points) for drop in loss.classes), default=0.0) or 1.0


def _spark(tensor: Any) -> dict[str, Any]:
    """Returns a histogram as an SVG path, heights by the cube root so that tails show, and where the range lies."""
    bars: Sequence[float] = tensor.bars
    if not bars:
        return {"path": "", "low": 0.0, "high": 0.0}
    most = max(bars) ** (1 / 3)
    step = _SPARK_WIDTH / len(bars)
    path = "".join(
        f"M{number * step:.1f} {_SPARK_HEIGHT}v{-_SPARK_HEIGHT * bar ** (1 / 3) / most:.1f}h{step:.1f}V{_SPARK_HEIGHT}z"
        for number, bar in enumerate(bars)
        if bar
    )
    span = (tensor.maximum - tensor.minimum) or 1.0
    ends = [min(max((end - tensor.minimum) / span, 0.0), 1.0) * _SPARK_WIDTH for end in (tensor.low, tensor.high)]
    return {"path": path, "low": ends[0], "high": ends[1]}


def _points(drop: Drop) -> str:
    return _signed(drop.points)


def _signed(value: float) -> str:
    """Returns a number with its sign, zero without one."""
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return f"+{text}" if value > 0 else f"{_MINUS}{text}"


def _range(low: float, high: float) -> str:
    return f"{_signed(low)} to {_signed(high)}"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", _MINUS)


def _percent(share: float) -> str:
    """Returns a share in percent; what is above 0 does not look like 0."""
    if 0 < share < 1e-5:
        return "<0.001 %"
    return f"{100 * share:.3f} %"


def _breakable(name: str) -> Any:
    """Returns a file's name, escaped, that may go on in a new line after its dots, hyphens and underscores."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._-])", r"\1<wbr>", str(escape(name))))  # noqa: S704 - escaped first


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", _MINUS)
