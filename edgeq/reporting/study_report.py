"""What a study leaves for people and papers: a page, a table of all trials, figures and a table for LaTeX."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeq.files import write_bytes, write_text
from edgeq.reporting.page import require_packages
from edgeq.reporting.plots import PRINT
from edgeq.reporting.study_plots import figures
from edgeq.reporting.write import safe_cell
from edgeq.results.study import StudyPoint, StudyResult

REPORT, TABLE, PARQUET, PAPER = "report.html", "trials.csv", "trials.parquet", "paper"
"""Names of the files, and of the folder for papers, in that of a study."""

_TEMPLATE = Path(__file__).parent / "template"
_SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def write_study(result: StudyResult, out: Path) -> list[Path]:
    """Returns the files of a study, written to a folder: the page, the tables, and those for papers.

    The table is a Parquet file too if pyarrow is installed.

    Args:
        result: What was found.
        out: The folder.

    Raises:
        InputError: a file cannot be written.
        MissingDependencyError: a package for pages is not installed.
    """
    require_packages()
    drawn = figures(result)
    write_text(out / REPORT, _page(result, [(each.title, each.svg()) for each in drawn]))
    write_text(out / TABLE, to_csv(result))
    tables = [out / TABLE]
    if importlib.util.find_spec("pyarrow") is not None:
        write_bytes(out / PARQUET, to_parquet(result))
        tables.append(out / PARQUET)
    paper = out / PAPER
    for figure in drawn:
        figure.save_pdf(paper / f"{figure.name}.pdf", PRINT)
    write_text(paper / "front.tex", to_latex(result))
    return [out / REPORT, *tables, paper]


def to_csv(result: StudyResult) -> str:
    """Returns all trials, one per line."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = _columns(result)
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow([safe_cell(value) for value in row])
    return stream.getvalue()


def to_parquet(result: StudyResult) -> bytes:
    """Returns the same as a Parquet file; needs pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table(dict(_columns(result))), stream)
    return stream.getvalue()


def _columns(result: StudyResult) -> Mapping[str, Sequence[Any]]:
    """Returns name of a column -> its values, of all trials."""
    points = result.points
    stored = ("name", "where", "bits", "method", "granularity", "calibration", "activation")
    plain = (*stored, "bits_per_weight", "size_bytes", "score")
    found = {name: [getattr(each, name) for each in points] for name in plain}
    found = {{"name": "trial", "score": result.score}.get(name, name): values for name, values in found.items()}
    found["points_lost"] = [each.loss.points for each in points]
    found["low"], found["high"] = [each.loss.low for each in points], [each.loss.high for each in points]
    for name in ("p50_ms", "ratio", "peak_rss_bytes", "file_bytes", "steady"):
        values = [None if each.measured is None else getattr(each.measured, name) for each in points]
        found[{"ratio": "time_over_fp32"}.get(name, name)] = values
    return found | {name: [getattr(each, name) for each in points] for name in ("on_front", "useless", "plan")}


def to_latex(result: StudyResult) -> str:
    """Returns the front and the two marks as a table for LaTeX, with the packages booktabs and nothing else."""
    lines = [
        f"% {result.model}, {result.images} images, simulated weights; 95 % intervals by the paired bootstrap.",
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        rf"weights & bits per weight & MB & points of {_latex(result.score)} lost \\",
        r"\midrule",
        *(_latex_row(each) for each in result.points if each in result.front or each.name.endswith("throughout")),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(point: StudyPoint) -> str:
    loss = f"{point.loss.points:+.2f} ({point.loss.low:+.2f} to {point.loss.high:+.2f})"
    return rf"{_latex(point.name)} & {point.bits_per_weight:.2f} & {point.size_bytes / 1e6:.3g} & ${loss}$ \\".replace(
        " to ", r"\text{ to }"
    )


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def _plan(result: StudyResult, point: StudyPoint) -> str:
    """Returns what a trial stores how, as an address that holds a JSON file."""
    plan = {
        "trial": point.name,
        "plan": point.plan,
        "activation": point.activation,
        "cells": dict(point.cells),
        "model": result.source_digest,
    }
    return f"data:application/json,{quote(json.dumps(plan, indent=1))}"


def _page(result: StudyResult, plots: list[tuple[str, str]]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((_TEMPLATE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    page: str = environment.get_template("study.html").render(
        result=result,
        plots=plots,
        plans={each.name: _plan(result, each) for each in result.points},
        style=style,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return page
