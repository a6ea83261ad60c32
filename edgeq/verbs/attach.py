"""`--attach` of bench and eval: the figures of a run are kept in the manifests of its files."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeq.exporting.artifact import Artifact
from edgeq.reporting.comparison import Comparison, compare
from edgeq.reporting.latency import ratio_interval
from edgeq.results.attached import AttachedResult, attach, require_manifest
from edgeq.results.environment import Environment
from edgeq.results.measurement import BenchResult
from edgeq.results.reading import Result
from edgeq.results.rows import LOCAL, merge


def require_attachable(paths: Sequence[Path]) -> None:
    """Raises `InputError` if a file has no manifest, before long work goes into figures for it."""
    for path in paths:
        require_manifest(Artifact.load(path))


def attach_results(paths: Sequence[Path], results: Sequence[Result]) -> list[Path]:
    """Keeps results in the manifests of their files, with intervals where the results hold FP32 too.

    Args:
        paths: The files that were run.
        results: What was found out about them.

    Returns:
        The manifests that were written.

    Raises:
        InputError: a manifest cannot be read or written.
    """
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    found: dict[str, list[AttachedResult]] = defaultdict(list)
    for comparison in compare(merge(results)):
        for result in comparison.row.results:
            found[result.digest].append(_attached(result, comparison, date))
    written = []
    for artifact in map(Artifact.load, paths):
        if mine := found.get(artifact.digest):
            attach(artifact, mine)
            written.append(artifact.manifest_path)
    return written


def _attached(result: Result, comparison: Comparison, date: str) -> AttachedResult:
    used = result.environment
    timed = isinstance(result, BenchResult)
    python = f"Python {used.python}" if used.python else None
    return AttachedResult(
        kind="bench" if timed else "eval",
        device=result.device or LOCAL,
        machine=_machine(used),
        system=", ".join(filter(None, (used.system, python))),
        runtime=result.runtime,
        engine=used.engine,
        compute=used.compute_precision,
        threads=used.threads,
        task="" if isinstance(result, BenchResult) else result.score.task,
        data="" if isinstance(result, BenchResult) else result.annotations or "",
        images=None if isinstance(result, BenchResult) else result.images,
        obtained=result.obtained,
        figures=_figures(result, comparison),
        intervals=_intervals(result, comparison),
        date=date,
        edgeq=result.edgeq or "",
        command=result.command or "",
    )


def _machine(used: Environment) -> str:
    return used.board or used.cpu or used.architecture or "unknown"


def _figures(result: Result, comparison: Comparison) -> dict[str, float]:
    if isinstance(result, BenchResult):
        stated: Mapping[str, float | None] = {
            "p50_ms": result.latency_ms.p50,
            "p90_ms": result.latency_ms.p90,
            "throughput_per_s": result.throughput_per_s,
            "ratio_to_fp32": result.ratio_to_fp32,
            "size_bytes": result.size_bytes,
            "peak_rss_bytes": result.peak_rss_bytes,
            "j_per_image": result.j_per_image,
        }
    else:
        drop = None if comparison.row.is_float or comparison.main is None else comparison.main.points
        score = result.score
        stated = {score.main: score.main_value, **score.numbers, "drop_points": drop}
    return {name: value for name, value in stated.items() if value is not None}


def _intervals(result: Result, comparison: Comparison) -> dict[str, tuple[float, float]]:
    if isinstance(result, BenchResult):
        ratio = None if comparison.row.is_float else ratio_interval(comparison)
        return {} if ratio is None else {"ratio_to_fp32": (ratio.low, ratio.high)}
    drop = None if comparison.row.is_float else comparison.main
    if drop is None or drop.low is None or drop.high is None:
        return {}
    return {"drop_points": (drop.low, drop.high)}
