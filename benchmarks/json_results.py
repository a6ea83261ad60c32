"""Results of bench and eval as the JSON values that `--json` writes.

Benchmarks keep results in files between their runs, and tests look at the keys that are promised to users.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.evaluation import evaluate
from edgeq.measurement import benchmark
from edgeq.results.reading import parse_results
from edgeq.results.rows import Row
from edgeq.results.rows import merge as merge_results
from edgeq.results.serialization import to_json
from edgeq.tasks import score_types


def bench_artifacts(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Returns what `edgeq.measurement.benchmark.bench_artifacts` measures."""
    return [to_json(result) for result in benchmark.bench_artifacts(*arguments, **options)]


def bench_jobs(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Returns what `edgeq.measurement.benchmark.bench_jobs` measures."""
    return [to_json(result) for result in benchmark.bench_jobs(*arguments, **options)]


def evaluate_artifacts(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
    """Returns what `edgeq.evaluation.evaluate.evaluate_artifacts` finds."""
    return [to_json(result) for result in evaluate.evaluate_artifacts(*arguments, **options)]


def merge(results: Sequence[dict[str, Any]]) -> list[Row]:
    """Returns the rows of results, read as from a file."""
    return merge_results(parse_results(list(results), "results", score_types()))
