"""Tables of results: their columns, and their cells as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeq.results.measurement import BenchResult
from edgeq.results.rows import LOCAL, Row, provenance


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        title: Its heading, with the unit.
        value: Row -> number, or `None` where it was not measured.
        digits: Digits behind the point.
        marks_drift: Whether `~` stands before a figure of a row that drifted.
    """

    title: str
    value: Callable[[Row], float | None]
    digits: int
    marks_drift: bool = False

    def text(self, row: Row) -> str:
        """Returns the cell of a row; `-` where there is no number."""
        value = self.value(row)
        if value is None:
            return "-"
        return f"{'~' if self.marks_drift and row.drifted else ''}{value:.{self.digits}f}"


def _score(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row.score is None else row.score.numbers.get(name)


def _timing(figure: Callable[[BenchResult], float | None], factor: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = None if row.timing is None else figure(row.timing)
        return None if found is None else found * factor

    return value


def _xnnpack_percent(row: Row) -> float | None:
    """Returns the share of a TFLite file's operators that XNNPACK ran: the others are an order of magnitude slower."""
    coverage = row.environment.xnnpack
    return 100 * coverage.delegated / coverage.operators if coverage is not None and coverage.operators else None


_AP, _AP50, _AR = Column("AP", _score("AP"), 4), Column("AP50", _score("AP50"), 4), Column("AR", _score("AR_100"), 4)
_TOP1, _TOP5 = Column("top-1", _score("top1"), 4), Column("top-5", _score("top5"), 4)
_COSINE, _COSINE_MIN = Column("cosine", _score("cosine"), 4), Column("cosine min", _score("cosine_min"), 4)
_RECALLS = tuple(Column(f"recall@{k}", _score(f"recall_at_{k}"), 4) for k in (1, 5, 10))
_SELF_RECALLS = tuple(Column(f"self recall@{k}", _score(f"self_recall_at_{k}"), 4) for k in (1, 5, 10))
_CLASS_RECALL = Column("class recall@1", _score("class_recall_at_1"), 4)
_P50, _P90 = (
    Column("p50 ms", lambda row: row.p50_ms, 2, marks_drift=True),
    Column("p90 ms", _timing(lambda found: found.latency_ms.p90), 2),
)
_GPU = Column("GPU ms", _timing(lambda found: found.gpu_p50_ms), 2)
_SIZE = Column("size MB", _timing(lambda found: found.size_bytes, 1e-6), 2)
_MEMORY = Column("memory MB", _timing(lambda found: found.peak_rss_bytes, 1e-6), 0)
_RATIO = Column("time / FP32", _timing(lambda found: found.ratio_to_fp32), 2)
_JOULES = Column("J / image", _timing(lambda found: found.j_per_image), 3)

_XNNPACK = Column("XNNPACK %", _xnnpack_percent, 0)

REPORT = (
    *(_AP, _AP50, _AR, _TOP1, _TOP5, _COSINE, _COSINE_MIN, *_RECALLS, _SELF_RECALLS[0], _CLASS_RECALL),
    *(_P50, _P90, _GPU, _SIZE, _MEMORY, _RATIO, _JOULES, _XNNPACK),
)
"""Columns of `edgeq report`. Ratios are those of `edgeq bench`: they hold only within one interleaved run."""

TIMING = (
    _P50,
    Column("spread ms", _timing(lambda found: found.latency_ms.mad), 2),
    _P90,
    Column("p99 ms", _timing(lambda found: found.latency_ms.p99), 2),
    _GPU,
    Column("cold start ms", _timing(lambda found: found.cold_start_total_ms), 0),
    Column("runs / s", _timing(lambda found: found.throughput_per_s), 1),
    _SIZE,
    _MEMORY,
    _RATIO,
    _JOULES,
    _XNNPACK,
)
"""Columns of `edgeq bench`; the rest of what it measures is in its JSON."""

SCORES = (
    _AP,
    _AP50,
    Column("AP75", _score("AP75"), 4),
    Column("AP small", _score("AP_small"), 4),
    Column("AP medium", _score("AP_medium"), 4),
    Column("AP large", _score("AP_large"), 4),
    _AR,
    _TOP1,
    _TOP5,
    _COSINE,
    Column("cosine p1", _score("cosine_p1"), 4),
    _COSINE_MIN,
    *_RECALLS,
    *_SELF_RECALLS,
    _CLASS_RECALL,
    _XNNPACK,
)
"""Columns of `edgeq eval`; the rest of what it measures is in its JSON."""


def header(columns: Sequence[Column] = REPORT) -> tuple[str, ...]:
    """Returns the titles of a table."""
    return ("artifact", "runtime", *(column.title for column in columns))


def table(rows: Sequence[Row], columns: Sequence[Column] = REPORT) -> list[tuple[str, ...]]:
    """Returns the cells under `header(columns)`; what was not measured is `-`.

    Digests and versions of engines stand where names do not tell rows apart, devices where there are others than this.
    """
    digests: dict[str, set[str]] = {}
    engines: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        digests.setdefault(row.artifact, set()).add(row.digest)
        engines.setdefault((row.artifact, row.runtime, row.device), set()).add(row.engine)
    remote = any(row.device != LOCAL for row in rows)
    cells = []
    for row in rows:
        ambiguous = len(digests[row.artifact]) > 1
        artifact = f"{row.artifact} ({row.digest[:8]})" if ambiguous and row.digest else row.artifact
        versions = engines[row.artifact, row.runtime, row.device]
        runtime = row.engine if len(versions) > 1 and row.engine else row.runtime
        runtime += f" ({row.compute})" if row.compute not in ("", "f32") else ""
        runtime += f" on {row.device}" if remote else ""
        cells.append((artifact, runtime, *(column.text(row) for column in columns)))
    return cells


def filled(rows: Sequence[Row], columns: Sequence[Column] = REPORT) -> tuple[Column, ...]:
    """Returns the columns in which at least one row has a figure."""
    return tuple(column for column in columns if any(column.value(row) is not None for row in rows))


def to_markdown(rows: Sequence[Row], columns: Sequence[Column] = REPORT) -> str:
    """Returns the report: the table without empty columns, and below it how every figure was obtained."""
    columns = filled(rows, columns)
    lines = [_markdown_row(header(columns)), "|" + "---|" * 2 + "---:|" * len(columns)]
    lines += [_markdown_row(row) for row in table(rows, columns)]
    return "\n".join([*lines, "", *provenance(rows)]) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
