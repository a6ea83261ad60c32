"""Tables of results: their columns, and their cells as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeq.results.evaluation import ScoreColumn
from edgeq.results.measurement import BenchResult
from edgeq.results.rows import LOCAL, Row, provenance

_SCORE_DIGITS = 4


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


def report_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Returns the columns of `edgeq report`: scores of the rows' tasks, then times.

    Ratios are those of `edgeq bench`: they hold only within one interleaved run.
    """
    scores = (_score(column) for column in _score_columns(rows) if column.in_report)
    return (*scores, _P50, _P90, _GPU, _SIZE, _MEMORY, _RATIO, _JOULES, _XNNPACK)


def evaluation_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Returns the columns of `edgeq eval`; the rest of what it measures is in its JSON."""
    return (*(_score(column) for column in _score_columns(rows)), _XNNPACK)


def _score_columns(rows: Sequence[Row]) -> tuple[ScoreColumn, ...]:
    """Returns the columns of the tasks that the rows were scored on, by task in the order of the rows."""
    return tuple(dict.fromkeys(column for row in rows if row.score is not None for column in row.score.columns))


def _score(column: ScoreColumn) -> Column:
    return Column(
        column.title, lambda row: None if row.score is None else row.score.numbers.get(column.name), _SCORE_DIGITS
    )


def _timing(figure: Callable[[BenchResult], float | None], factor: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = None if row.timing is None else figure(row.timing)
        return None if found is None else found * factor

    return value


def _xnnpack_percent(row: Row) -> float | None:
    """Returns the share of a TFLite file's operators that XNNPACK ran: the others are an order of magnitude slower."""
    coverage = row.environment.xnnpack
    return 100 * coverage.delegated / coverage.operators if coverage is not None and coverage.operators else None


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


def header(columns: Sequence[Column]) -> tuple[str, ...]:
    """Returns the titles of a table."""
    return ("artifact", "runtime", *(column.title for column in columns))


def table(rows: Sequence[Row], columns: Sequence[Column]) -> list[tuple[str, ...]]:
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


def filled(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[Column, ...]:
    """Returns the columns in which at least one row has a figure."""
    return tuple(column for column in columns if any(column.value(row) is not None for row in rows))


def to_markdown(rows: Sequence[Row], further: Sequence[Column] = ()) -> str:
    """Returns the report: the table without empty columns, and below it how every figure was obtained.

    Args:
        rows: What it is about.
        further: Columns behind those of `report_columns`.
    """
    columns = filled(rows, (*report_columns(rows), *further))
    lines = markdown_table(header(columns), table(rows, columns), len(columns))
    return "\n".join([lines, "", *provenance(rows)]) + "\n"


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], figures: int) -> str:
    """Returns a table, its last `figures` columns aligned as numbers."""
    rule = "|" + "---|" * (len(titles) - figures) + "---:|" * figures
    return "\n".join([_markdown_row(titles), rule, *map(_markdown_row, rows)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
