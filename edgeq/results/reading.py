"""Result files: what `--json` of bench and eval wrote, of this and earlier versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgeq.boundary import Plain, Positive, convert, read_json
from edgeq.errors import InputError
from edgeq.results.environment import nested
from edgeq.results.evaluation import SCORES, EvalResult, Score
from edgeq.results.measurement import BenchResult
from edgeq.results.serialization import RESULTS_VERSION, require_version

KIND = "a result of `edgeq bench --json` or `edgeq eval --json`"

Result = BenchResult | EvalResult[Score]

_TIMED = "latency_ms"


def read_results(files: Sequence[Path]) -> list[Result]:
    """Returns the results of all files, in order; a file holds one result or a list of them.

    Raises:
        InputError: a file is not a result of bench or eval.
    """
    results: list[Result] = []
    for path in files:
        document = read_json(path, Plain, kind=KIND)
        results += parse_results(document, path)
    if not results:
        raise InputError(f"{', '.join(map(str, files)) or 'no file'}: holds no results; wanted {KIND}")
    return results


def parse_results(document: Any, source: object) -> list[Result]:
    """Returns the results that a document holds.

    Args:
        document: One result as JSON values, or a list of them.
        source: Where they come from, for errors.

    Raises:
        InputError: they are not of that form, or a newer edgeq wrote them.
    """
    if not isinstance(document, list):
        return list(_parse(document, source, "$"))
    return [result for number, entry in enumerate(document) for result in _parse(entry, source, f"$[{number}]")]


class _Head(msgspec.Struct):
    artifact: str
    runtime: str
    precision: str
    results_version: Positive = RESULTS_VERSION


def _parse(entry: Any, source: object, place: str) -> Iterator[Result]:
    head = convert(entry, _Head, source=source, kind=KIND, place=place)
    require_version(source, head.results_version)
    if not entry.keys() & {_TIMED, *(kind.main for kind in SCORES)}:
        mains = ", ".join(kind.main for kind in SCORES)
        raise InputError(f"{source}: {place} holds none of {mains} and {_TIMED}; wanted {KIND}")
    entry = _with_environment(entry)
    for kind in SCORES:
        if kind.main in entry:
            score: Score = convert(entry, kind, source=source, kind=KIND, place=place)
            read = convert(entry | {"score": None}, EvalResult[Any], source=source, kind=KIND, place=place)
            yield dataclasses.replace(read, task=read.task or kind.task, score=score)
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
