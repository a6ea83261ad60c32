"""`edgeq report`: one table of artifacts from the JSON files of `edgeq bench` and `edgeq eval`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.files import read_json
from edgeq.runtimes.latency import MAX_DRIFT

_KIND = "a result of `edgeq bench --json` or `edgeq eval --json`"
# Main score of each task -> what a sentence calls its scores.
_MAIN_SCORES = {"AP": "AP and AR", "top1": "Accuracy", "cosine": "Cosine and recall"}
_NUMBERS = ("AP", "AP50", "AR_100", "top1", "top5", "size_bytes", "peak_rss_bytes", "ratio_to_fp32", "throughput_per_s")
# Names of COCO's numbers and of those of embeddings start like this.
_NUMBER_PREFIXES = ("AP_", "cosine", "recall_at_", "class_recall_at_", "self_")

LOCAL = "local"
"""Name of the machine that commands run on; results that name no device are from there."""

_SLOWER = 1.03
"""Ratios of one run repeat to a few percent: below, a file is as fast as its float version."""

RowKey = tuple[str, str, str, str, str, str]
"""Artifact, its digest, runtime, compute precision of the layers in float, engine with its version, device."""


@dataclass
class Row:
    """One artifact in one version of an engine on one device.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file; empty where the result does not tell.
        runtime: Name of the runtime.
        compute: What the engine computed float layers in.
        engine: The engine with its version; empty where the result does not tell.
        device: Name of the device.
        scores: The result of `edgeq eval`; empty if it was not scored.
        timing: The result of `edgeq bench`; empty if it was not timed.
    """

    artifact: str
    digest: str
    runtime: str
    compute: str
    engine: str = ""
    device: str = LOCAL
    scores: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        """Precision of the file, as its manifest states it."""
        return str((self.scores or self.timing).get("precision", ""))

    @property
    def target(self) -> str:
        """Target that the file was written for."""
        return str((self.scores or self.timing).get("target") or "")

    @property
    def model(self) -> str:
        """What the files of one model have in common: the digest of its float graph, or else the name's first part."""
        found = self.scores.get("source_digest") or self.timing.get("source_digest")
        return str(found or self.artifact.split(f".{self.target}.")[0])

    @property
    def is_float(self) -> bool:
        """Whether it is an FP32 file, computed in FP32: what others are compared with."""
        return self.precision == "fp32" and self.compute in ("", "f32")

    @property
    def drifted(self) -> bool:
        """Whether its latency was measured in no steady state."""
        return self.timing.get("stable") is False


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
    return lambda row: row.scores.get(name)


def _timing(name: str, factor: float = 1.0) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        found = row.timing.get(name)
        return None if found is None else found * factor

    return value


def _latency(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.timing.get("latency_ms", {}).get(name)


def _gpu_p50(row: Row) -> float | None:
    p50: float | None = row.timing.get("gpu_ms", {}).get("p50")
    return p50


def _xnnpack_percent(row: Row) -> float | None:
    """Returns the share of a TFLite file's operators that XNNPACK ran: the others are an order of magnitude slower."""
    environment = (row.timing or row.scores).get("environment") or {}
    coverage = environment.get("xnnpack") or {}
    return 100 * coverage["delegated"] / coverage["operators"] if coverage.get("operators") else None


def _cold_start_ms(row: Row) -> float | None:
    parts = row.timing.get("cold_start_ms")
    return sum(part for part in parts.values() if part is not None) if parts else None


def _joules(row: Row) -> float | None:
    joules: float | None = (row.timing.get("energy") or {}).get("j_per_image")
    return joules


_AP, _AP50, _AR = Column("AP", _score("AP"), 4), Column("AP50", _score("AP50"), 4), Column("AR", _score("AR_100"), 4)
_TOP1, _TOP5 = Column("top-1", _score("top1"), 4), Column("top-5", _score("top5"), 4)
_COSINE, _COSINE_MIN = Column("cosine", _score("cosine"), 4), Column("cosine min", _score("cosine_min"), 4)
_RECALLS = tuple(Column(f"recall@{k}", _score(f"recall_at_{k}"), 4) for k in (1, 5, 10))
_SELF_RECALLS = tuple(Column(f"self recall@{k}", _score(f"self_recall_at_{k}"), 4) for k in (1, 5, 10))
_CLASS_RECALL = Column("class recall@1", _score("class_recall_at_1"), 4)
_P50, _P90 = Column("p50 ms", _latency("p50"), 2, marks_drift=True), Column("p90 ms", _latency("p90"), 2)
_GPU = Column("GPU ms", _gpu_p50, 2)
_SIZE = Column("size MB", _timing("size_bytes", 1e-6), 2)
_MEMORY = Column("memory MB", _timing("peak_rss_bytes", 1e-6), 0)
_RATIO = Column("time / FP32", _timing("ratio_to_fp32"), 2)
_JOULES = Column("J / image", _joules, 3)

_XNNPACK = Column("XNNPACK %", _xnnpack_percent, 0)

REPORT = (
    *(_AP, _AP50, _AR, _TOP1, _TOP5, _COSINE, _COSINE_MIN, *_RECALLS, _SELF_RECALLS[0], _CLASS_RECALL),
    *(_P50, _P90, _GPU, _SIZE, _MEMORY, _RATIO, _JOULES, _XNNPACK),
)
"""Columns of `edgeq report`. Ratios are those of `edgeq bench`: they hold only within one interleaved run."""

TIMING = (
    _P50,
    Column("spread ms", _latency("mad"), 2),
    _P90,
    Column("p99 ms", _latency("p99"), 2),
    _GPU,
    Column("cold start ms", _cold_start_ms, 0),
    Column("runs / s", _timing("throughput_per_s"), 1),
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
            if not entry.keys() & {*_MAIN_SCORES, "latency_ms"}:
                raise InputError(f"{path}: holds none of {', '.join(_MAIN_SCORES)} and latency_ms; wanted {_KIND}")
            _check_figures(path, entry)
            results.append(entry)
    if not results:
        raise InputError(f"{', '.join(map(str, files)) or 'no file'}: holds no results; wanted {_KIND}")
    return results


def _check_figures(path: Path, entry: Mapping[str, Any]) -> None:
    for key in ("latency_ms", "cold_start_ms", "environment", "energy", "gpu_ms"):
        if not isinstance(entry.get(key) or {}, dict):
            raise InputError(f"{path}: {key} is {entry[key]!r}, wanted an object; is it {_KIND}?")
    figures = {
        key: entry.get(key) for key in (*_NUMBERS, *(name for name in entry if name.startswith(_NUMBER_PREFIXES)))
    }
    figures |= (entry.get("latency_ms") or {}) | (entry.get("cold_start_ms") or {})
    figures["energy.j_per_image"] = (entry.get("energy") or {}).get("j_per_image")
    for key, value in figures.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InputError(f"{path}: {key} is {value!r}, wanted a number; is it {_KIND}?")


def merge(results: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Returns one row for each artifact, runtime, compute precision, engine version and device, as they appear.

    Files of the same name are told apart by their digests. What several results say of one row is taken from the last.
    """
    rows: dict[RowKey, Row] = {}
    for entry in results:
        environment = entry.get("environment") or {}
        key = (
            *(str(entry["artifact"]), str(entry.get("digest", "")), str(entry["runtime"])),
            *(str(environment.get("compute_precision", "")), str(environment.get("engine", ""))),
            str(entry.get("device") or LOCAL),
        )
        row = rows.setdefault(key, Row(*key))
        if entry.keys() & _MAIN_SCORES.keys():
            row.scores = dict(entry)
        if "latency_ms" in entry:
            row.timing = dict(entry)
    return list(rows.values())


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


def provenance(rows: Sequence[Row]) -> list[str]:
    """Returns sentences on how the figures were obtained: measured or emulated, with which engines, on what machine."""
    engines: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for what, entry in _results(row):
            environment = entry.get("environment") or {}
            threads = f" ({environment['threads']} threads)" if environment.get("threads") else ""
            python = f"Python {environment['python']}" if environment.get("python") else None
            facts = (environment.get("cpu"), environment.get("system"), python)
            machine = ", ".join(str(fact) for fact in facts if fact)
            key = f"{what}: {entry.get('obtained', 'measured')}", machine
            engines.setdefault(key, {})[f"{environment.get('engine', row.runtime)}{threads}"] = None
    sentences = [
        f"{what} with {' and '.join(names)}{f' on {machine}' if machine else ''}."
        for (what, machine), names in engines.items()
    ]
    sentences += _energy_sources(rows)
    if any(row.drifted for row in rows):
        sentences.append("~: not timed in a steady state, so another run may differ; ratios within one run hold.")
        sentences += [f"~ {row.artifact} in {row.runtime}: {_unstable(row)}." for row in rows if row.drifted]
    sentences += [
        f"{row.artifact}: launch bound, the CPU sets the pace; EDGEQ_CUDA_GRAPH=1 launches all kernels at once."
        for row in rows
        if row.timing.get("launch_bound")
    ]
    sentences += [
        f"{row.artifact} takes {ratio:.2f} times as long as its FP32 file in {row.runtime} on this machine."
        for row in rows
        if (ratio := row.timing.get("ratio_to_fp32")) is not None and ratio > _SLOWER
    ]
    return sentences


def _energy_sources(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence for each way that energy was measured in, with what of it the idle machine takes, too."""
    idle: dict[str, list[str]] = {}
    for row in rows:
        if energy := row.timing.get("energy"):
            share = energy.get("idle_share")
            shares = idle.setdefault(str(energy.get("source")), [])
            if share is not None:
                shares.append(f"{row.artifact} in {row.runtime} {share:.0%}")
    return [
        f"J / image: {source} over the timed runs, the idle machine's share included"
        + (f": {', '.join(shares)}." if shares else ".")
        for source, shares in idle.items()
    ]


def _unstable(row: Row) -> str:
    """Returns why a row is marked; results of before there were sensors know of drift only."""
    reasons = row.timing.get("unstable_reasons") or [f"latency drifted by more than {MAX_DRIFT:.0%}"]
    return ", ".join(map(str, reasons))


def _results(row: Row) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields what was measured, as a sentence names it, and the result."""
    if row.scores:
        of = f" of {row.scores['annotations']}" if row.scores.get("annotations") else ""
        numbers = next(name for key, name in _MAIN_SCORES.items() if key in row.scores)
        yield f"{numbers} over {row.scores.get('images', '?')} images{of}", row.scores
    if row.timing:
        yield "Latency, size and memory", row.timing
