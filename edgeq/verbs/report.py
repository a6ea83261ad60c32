"""`edgeq report`: one table of artifacts from the JSON files of `edgeq bench` and `edgeq eval`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.files import read_json

_KIND = "a result of `edgeq bench --json` or `edgeq eval --json`"

RowKey = tuple[str, str, str]
"""Artifact, runtime, compute precision of the layers in float."""


@dataclass
class Row:
    """One artifact in one runtime; `None` is what was not measured.

    Attributes:
        artifact: File name.
        runtime: Engine.
        compute: What the engine computed float layers in.
        precision: Precision of the file.
        scores: The numbers of `edgeq eval`.
        timing: The numbers of `edgeq bench`.
    """

    artifact: str
    runtime: str
    compute: str
    precision: str
    scores: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)


def read_results(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Returns the result objects of all files, in order; a file holds one object or a list of them.

    Raises:
        InputError: a file is not a result of bench or eval.
    """
    results: list[dict[str, Any]] = []
    for path in files:
        document = read_json(path, kind=_KIND)
        for entry in document if isinstance(document, list) else [document]:
            if not isinstance(entry, dict) or not {"artifact", "runtime", "precision"} <= entry.keys():
                raise InputError(f"{path}: is not {_KIND}")
            if "AP" not in entry and "latency_ms" not in entry:
                raise InputError(f"{path}: holds neither AP nor latency_ms; wanted {_KIND}")
            results.append(entry)
    return results


def merge(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Returns one row for each artifact, runtime and compute precision, in order of appearance.

    What several files say of one row is taken from the last.
    """
    rows: dict[RowKey, Row] = {}
    for entry in results:
        compute = str(entry.get("environment", {}).get("compute_precision", ""))
        key = (str(entry["artifact"]), str(entry["runtime"]), compute)
        row = rows.setdefault(key, Row(*key, precision=str(entry["precision"])))
        if "AP" in entry:
            row.scores = dict(entry)
        if "latency_ms" in entry:
            row.timing = dict(entry)
    return list(rows.values())


_WHERE = ("engine", "cpu", "system")

HEADER = ("artifact", "runtime", "AP", "AP50", "AR", "p50 ms", "p90 ms", "size MB", "memory MB", "time / FP32")


def table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Returns the cells of the report's table under `HEADER`; what was not measured is `-`."""
    cells = []
    for row in rows:
        timing, latency = row.timing, row.timing.get("latency_ms", {})
        mark = " (unstable)" if timing.get("stable") is False else ""
        cells.append(
            (
                row.artifact,
                row.runtime + (f" ({row.compute})" if row.compute not in ("", "f32") else ""),
                _number(row.scores.get("AP"), 4),
                _number(row.scores.get("AP50"), 4),
                _number(row.scores.get("AR_100"), 4),
                _number(latency.get("p50"), 2) + mark,
                _number(latency.get("p90"), 2),
                _number(timing.get("size_bytes"), 2, 1e-6),
                _number(timing.get("peak_rss_bytes"), 0, 1e-6),
                _number(timing.get("ratio_to_fp32"), 2),
            )
        )
    return cells


def to_markdown(rows: Sequence[Row]) -> str:
    """Returns the report: the table, and below it how every figure was obtained."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * 2 + "---:|" * (len(HEADER) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in table(rows)]
    return "\n".join([*lines, "", *provenance(rows)]) + "\n"


def provenance(rows: Sequence[Row]) -> list[str]:
    """Returns sentences on how the figures were obtained: measured or emulated, on what, with which versions."""
    sentences: dict[str, None] = {}
    for row in rows:
        for entry in (row.scores, row.timing):
            if entry:
                environment = entry.get("environment", {})
                where = ", ".join(str(environment[key]) for key in _WHERE if environment.get(key))
                python = f", Python {environment['python']}" if environment.get("python") else ""
                threads = f", {environment['threads']} threads" if environment.get("threads") else ""
                images = f"AP and AR over {entry['images']} images: " if "AP" in entry else "Latency, size and memory: "
                sentences[f"{images}{entry.get('obtained', 'measured')} with {where}{python}{threads}."] = None
    return list(sentences)


def _number(value: Any, digits: int, factor: float = 1.0) -> str:
    return "-" if value is None else f"{float(value) * factor:.{digits}f}"
