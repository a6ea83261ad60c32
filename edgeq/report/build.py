"""Makes a report's document of results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import edgeq
from edgeq.predictions import DetectionPredictions
from edgeq.report.average_precision import AREAS
from edgeq.report.comparison import Comparison, compare
from edgeq.report.differences import most_different
from edgeq.report.document import (
    SCORE_TITLES,
    Curve,
    Differences,
    Document,
    Entry,
    LatencySeries,
    Loss,
    RangesTable,
)
from edgeq.report.runs import Runs
from edgeq.report.saturation import tensor_ranges
from edgeq.report.threshold import score_curve
from edgeq.verbs.report import Row, provenance

# Points of a plotted run; of longer ones every stretch is shown by its least and its largest sample.
_PLOTTED = 300
_NS_PER_MS = 1e6
# Where nothing tells the best threshold, what people commonly draw boxes from.
_THRESHOLD = 0.3


def build_document(runs: Runs, *, examples: int) -> Document:
    """Returns the report on results.

    Args:
        runs: What was read.
        examples: Most images of each model that are shown side by side.

    Raises:
        InputError: the predictions of a result are damaged.
    """
    comparisons = compare(runs.rows)
    numbers = {id(row): number for number, row in enumerate(runs.rows, start=1)}
    fronts = _fronts(runs.rows)
    names = _model_names(runs.rows)
    entries = tuple(
        _entry(each, numbers, names[each.row.model], id(each.row) in fronts) for each in comparisons
    )  # fmt: skip
    curves = _curves(comparisons, numbers)
    return Document(
        version=edgeq.__version__,
        entries=entries,
        losses=tuple(_loss(each, numbers) for each in comparisons if _is_compared(each)),
        curves=curves,
        differences=_differences(comparisons, numbers, curves, examples),
        latency=tuple(_series(row, numbers[id(row)]) for row in runs.rows if row.timing.get("samples_ns")),
        ranges=tuple(
            RangesTable(
                each.name,
                names.get(each.ranges.provenance.model_digest, each.ranges.provenance.model_digest[:12]),
                each.ranges.method,
                each.ranges.provenance.images,
                tensor_ranges(each.ranges),
            )
            for each in runs.ranges
        ),
        sentences=tuple(provenance(runs.rows)),
        sources=runs.sources,
    )


def _entry(comparison: Comparison, numbers: dict[int, int], model: str, on_front: bool) -> Entry:
    row, reference = comparison.row, comparison.reference
    scores, timing = row.scores, row.timing
    environment = timing.get("environment") or scores.get("environment") or {}
    latency, energy = timing.get("latency_ms") or {}, timing.get("energy") or {}
    cold = [part for part in (timing.get("cold_start_ms") or {}).values() if part is not None]
    score_name = next((name for name in SCORE_TITLES if name in scores), None)
    facts = (environment.get("board") or environment.get("cpu"), environment.get("system"))
    python = f"Python {environment['python']}" if environment.get("python") else None
    return Entry(
        number=numbers[id(row)],
        model=model,
        artifact=row.artifact,
        digest=row.digest,
        device=row.device,
        runtime=row.runtime,
        engine=row.engine or row.runtime,
        precision=row.precision,
        compute=row.compute,
        target=row.target,
        task=comparison.task,
        data=scores.get("annotations"),
        images=scores.get("images"),
        score_name=score_name,
        score=scores.get(score_name) if score_name else None,
        reference=None if reference is None else numbers[id(reference)],
        drop=None if reference is row else comparison.main,
        no_interval=comparison.without_interval if comparison.task and reference is not row else None,
        scores={name: value for name, value in scores.items() if _is_number(value)},
        p50_ms=latency.get("p50"),
        p90_ms=latency.get("p90"),
        p99_ms=latency.get("p99"),
        gpu_ms=(timing.get("gpu_ms") or {}).get("p50"),
        preprocess_ms=_median(timing.get("preprocess_ms")),
        postprocess_ms=_median(timing.get("postprocess_ms")),
        cold_start_ms=sum(cold) if cold else None,
        throughput_per_s=timing.get("throughput_per_s"),
        ratio_to_fp32=timing.get("ratio_to_fp32"),
        size_bytes=timing.get("size_bytes"),
        memory_bytes=timing.get("peak_rss_bytes"),
        j_per_image=energy.get("j_per_image"),
        idle_share=energy.get("idle_share"),
        energy_source=energy.get("source"),
        runs=timing.get("runs"),
        drift=timing.get("drift"),
        stable=timing.get("stable"),
        unstable_reasons=tuple(str(reason) for reason in timing.get("unstable_reasons") or ()),
        scored=str(scores.get("obtained", "measured")) if scores else None,
        timed=str(timing.get("obtained", "measured")) if timing else None,
        on_front=on_front,
        machine=", ".join(str(fact) for fact in (*facts, python) if fact),
        threads=environment.get("threads"),
        tools=_said("edgeq", scores, timing),
        commands=_said("command", scores, timing),
    )


def _said(key: str, *results: dict[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(each[key]) for each in results if each.get(key)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _median(found: Any) -> float | None:
    value: Any = found.get("p50") if isinstance(found, dict) else found
    return float(value) if _is_number(value) else None


def _model_names(rows: Iterable[Row]) -> dict[str, str]:
    """Returns what the files of a model are called, by what they have in common."""
    names: dict[str, str] = {}
    for row in rows:
        names.setdefault(row.model, row.artifact.split(f".{row.target}.")[0] if row.target else row.artifact)
    return names


def _fronts(rows: Sequence[Row]) -> set[int]:
    """Returns the rows that no other one of the model, data set and device beats in both latency and score."""
    groups: dict[tuple[str, str, str], list[tuple[float, float, int]]] = {}
    for row in rows:
        score = next((row.scores[name] for name in SCORE_TITLES if row.scores.get(name) is not None), None)
        p50 = (row.timing.get("latency_ms") or {}).get("p50")
        if score is not None and p50 is not None:
            key = (row.model, str(row.scores.get("annotations")), row.device)
            groups.setdefault(key, []).append((p50, score, id(row)))
    return {
        row
        for members in groups.values()
        for p50, score, row in members
        if not any(
            (time <= p50 and other >= score) and (time < p50 or other > score) for time, other, _ in members
        )
    }  # fmt: skip


def _is_compared(comparison: Comparison) -> bool:
    return not comparison.row.is_float and comparison.reference is not None and comparison.main is not None


def _loss(comparison: Comparison, numbers: dict[int, int]) -> Loss:
    areas = [comparison.main, *(comparison.area(area) for area in AREAS[1:])]
    return Loss(
        numbers[id(comparison.row)],
        numbers[id(comparison.reference)],
        tuple(drop for drop in areas if drop is not None),
        comparison.classes,
    )


def _curves(comparisons: Sequence[Comparison], numbers: dict[int, int]) -> tuple[Curve, ...]:
    found = {}
    for each in comparisons:
        if each.scored is not None and isinstance(each.scored.predictions, DetectionPredictions):
            curve = score_curve(each.scored.matches)
            if curve is not None:
                found[id(each.row)] = (each, curve)
    curves = []
    for each, curve in found.values():
        best = found.get(id(each.reference))
        if each.row.is_float or best is None:
            curves.append(Curve(numbers[id(each.row)], curve, None, None))
        else:
            threshold = best[1].best_threshold
            curves.append(Curve(numbers[id(each.row)], curve, curve.at(threshold), curve.best_threshold - threshold))
    return tuple(curves)


def _differences(
    comparisons: Sequence[Comparison], numbers: dict[int, int], curves: Sequence[Curve], count: int
) -> tuple[Differences, ...]:
    worst: dict[tuple[str, str], Comparison] = {}
    for each in comparisons:
        if not _is_compared(each) or each.without_interval or each.task != "detection":
            continue
        key = (each.row.model, str(each.row.scores.get("annotations")))
        if key not in worst or _points(each) > _points(worst[key]):
            worst[key] = each
    thresholds = {curve.entry: curve.curve.best_threshold for curve in curves}
    found = []
    for each in worst.values():
        if each.scored is None or each.reference_scored is None:
            continue
        before, now = each.reference_scored.predictions, each.scored.predictions
        if not isinstance(before, DetectionPredictions) or not isinstance(now, DetectionPredictions):
            continue
        entry, reference = numbers[id(each.row)], numbers[id(each.reference)]
        threshold = thresholds.get(reference, _THRESHOLD)
        examples = most_different(before, now, threshold, count)
        if examples:
            found.append(Differences(entry, reference, threshold, tuple(examples)))
    return tuple(found)


def _points(comparison: Comparison) -> float:
    return comparison.main.points if comparison.main is not None else 0.0


def _series(row: Row, number: int) -> LatencySeries:
    ms = np.asarray(row.timing["samples_ns"], np.float64) / _NS_PER_MS
    quantiles = np.percentile(ms, np.arange(101))
    if len(ms) <= _PLOTTED:
        at = np.arange(len(ms))
    else:
        stretches = np.array_split(np.arange(len(ms)), _PLOTTED // 2)
        ends = [(part[ms[part].argmin()], part[ms[part].argmax()]) for part in stretches]
        at = np.unique(np.array(ends).ravel())
    return LatencySeries(
        number, len(ms), tuple(at.tolist()), tuple(ms[at].round(4).tolist()), tuple(quantiles.round(4).tolist())
    )
