"""Result files: what `--json` of bench and eval wrote, of this and earlier versions.

The scores of each task have a type of their own, which stands with the task. Tasks are above results, so a reader
hands the types in: `edgeq.tasks.score_types()`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import Plain, Positive, convert, read_json
from edgeq.errors import InputError
from edgeq.results.environment import nested
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import BenchResult
from edgeq.results.serialization import RESULTS_VERSION, require_version

KIND = "a result of `edgeq bench --json` or `edgeq eval --json`"

Result = BenchResult | EvalResult[Score]

_TIMED = "latency_ms"


ScoreTypes = Mapping[str, type[Score]]
"""Name of a task -> type of its scores."""


def read_results(files: Sequence[Path], scores: ScoreTypes) -> list[Result]:
    """Returns the results of all files, in order; a file holds one result or a list of them.

    Args:
        files: The files.
        scores: The type of every task's scores, see `edgeq.tasks.score_types`.

    Raises:
        InputError: a file is not a result of bench or eval.
    """
    results: list[Result] = []
    for path in files:
        document = read_json(path, Plain, kind=KIND)
        results += parse_results(document, path, scores)
    if not results:
        raise InputError(f"{', '.join(map(str, files)) or 'no file'}: holds no results; wanted {KIND}")
    return results


def parse_results(document: Any, source: object, scores: ScoreTypes) -> list[Result]:
    """Returns the results that a document holds.

    Args:
        document: One result as JSON values, or a list of them.
        source: Where they come from, for errors.
        scores: The type of every task's scores, see `edgeq.tasks.score_types`.

    Raises:
        InputError: they are not of that form, a newer edgeq wrote them, or their task is unknown.
    """
    if not isinstance(document, list):
        return list(_parse(document, source, "$", scores))
    return [result for number, entry in enumerate(document) for result in _parse(entry, source, f"$[{number}]", scores)]


class _Head(msgspec.Struct):
    artifact: str
    runtime: str
    precision: str
    task: str = ""
    results_version: Positive = RESULTS_VERSION


def _parse(entry: Any, source: object, place: str, scores: ScoreTypes) -> Iterator[Result]:
    head = convert(entry, _Head, source=source, kind=KIND, place=place)
    require_version(source, head.results_version)
    if head.task and head.task not in scores:
        raise InputError(
            f"{source}: {place} is of the task {head.task!r}, and this edgeq knows {', '.join(scores)}; install the "
            "package that adds the task, or score the file again"
        )
    # Results without a task are older than most tasks: their main number is that of the first task that has it.
    first = {kind.main: kind for kind in reversed(list(scores.values()))}
    kinds = [scores[head.task]] if head.task else [kind for kind in scores.values() if first[kind.main] is kind]
    if not entry.keys() & {_TIMED, *(kind.main for kind in kinds)}:
        mains = ", ".join(dict.fromkeys(kind.main for kind in kinds))
        raise InputError(f"{source}: {place} holds none of {mains} and {_TIMED}; wanted {KIND}")
    entry = _with_environment(entry)
    for kind in kinds:
        if kind.main in entry:
            score: Score = convert(entry, kind, source=source, kind=KIND, place=place)
            read = convert(entry | {"score": None}, EvalResult[Any], source=source, kind=KIND, place=place)
            yield dataclasses.replace(read, task=kind.task, score=score)
    if _TIMED in entry:
        yield convert(entry, BenchResult, source=source, kind=KIND, place=place)


def _with_environment(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns the entry with what only one engine reports in a separate place."""
    found = entry.get("environment")
    if found is None:
        return {key: value for key, value in entry.items() if key != "environment"}
    if not isinstance(found, Mapping):
        return entry
    return entry | {"environment": nested(found)}
