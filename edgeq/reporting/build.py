"""Makes a report's document of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

import edgeq
from edgeq.reporting.comparison import Comparison, compare
from edgeq.reporting.compiled import compiled_entry
from edgeq.reporting.document import (
    Curve,
    Differences,
    Document,
    Entry,
    Errors,
    LatencySeries,
    Loss,
    RangesTable,
)
from edgeq.reporting.errors import error_changes
from edgeq.reporting.layers import layer_tables
from edgeq.reporting.runs import Runs
from edgeq.reporting.saturation import tensor_ranges
from edgeq.reporting.verdict import MAX_DROP, Verdict, judge
from edgeq.results.evaluation import EvalResult, Score
from edgeq.results.measurement import BenchResult, Energy
from edgeq.results.rows import Row, provenance

# Points of a plotted run; of longer ones every stretch is shown by its least and its largest sample.
_PLOTTED = 300
_NS_PER_MS = 1e6
# Where nothing tells the best threshold, and for confused classes, what people commonly draw boxes from.
_THRESHOLD = 0.3


def build_document(runs: Runs, *, examples: int, max_drop: float = MAX_DROP) -> Document:
    """Returns the report on results.

    Args:
        runs: What was read.
        examples: Most images of each model that are shown side by side.
        max_drop: Points of the score that a file may lose, for the verdicts.

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
        errors=_errors(comparisons, numbers),
        differences=_differences(comparisons, numbers, curves, examples),
        latency=tuple(
            _series(row.timing, numbers[id(row)])
            for row in runs.rows
            if row.timing is not None and row.timing.samples_ns
        ),
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
        compiled=tuple(compiled_entry(each, runs.rows) for each in runs.compiled),
        sentences=tuple(provenance(runs.rows)),
        sources=runs.sources,
        verdicts=tuple(_verdicts(entries, max_drop)),
        layers=layer_tables(runs.rows),
    )


def _verdicts(entries: Sequence[Entry], max_drop: float) -> Iterator[Verdict]:
    """Yields the verdict on the fastest quantized file of each model and device."""
    fastest: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.drop is None or entry.reference is None or entry.precision == "fp32" or entry.ratio_to_fp32 is None:
            continue
        key = (entry.model, entry.device)
        if key not in fastest or (entry.p50_ms or 0) < (fastest[key].p50_ms or 0):
            fastest[key] = entry
    for entry in fastest.values():
        if (found := judge(entry, entries[(entry.reference or 1) - 1], max_drop)) is not None:
            yield found


def _entry(comparison: Comparison, numbers: dict[int, int], model: str, on_front: bool) -> Entry:
    row, reference = comparison.row, comparison.reference
    scores, score = row.scores, row.score
    # What was not timed is shown like what could not be measured.
    timing = row.timing or BenchResult(artifact=row.artifact, runtime=row.runtime, precision=row.precision)
    energy = timing.energy or Energy()
    environment = row.environment
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
        data=None if scores is None else scores.annotations,
        images=None if scores is None else scores.images,
        score_name=None if score is None else score.main,
        score=None if score is None else score.main_value,
        reference=None if reference is None else numbers[id(reference)],
        drop=None if reference is row else comparison.main,
        no_interval=comparison.without_interval if comparison.task and reference is not row else None,
        scores=_numbers(scores),
        p50_ms=timing.latency_ms.p50,
        p90_ms=timing.latency_ms.p90,
        p99_ms=timing.latency_ms.p99,
        gpu_ms=timing.gpu_p50_ms,
        preprocess_ms=None if timing.preprocess_ms is None else timing.preprocess_ms.p50,
        postprocess_ms=None if timing.postprocess_ms is None else timing.postprocess_ms.p50,
        cold_start_ms=timing.cold_start_total_ms,
        throughput_per_s=timing.throughput_per_s,
        ratio_to_fp32=timing.ratio_to_fp32,
        size_bytes=timing.size_bytes,
        memory_bytes=timing.peak_rss_bytes,
        j_per_image=energy.j_per_image,
        idle_share=energy.idle_share,
        energy_source=energy.source or None,
        runs=timing.runs,
        drift=timing.drift,
        stable=timing.stable,
        unstable_reasons=timing.unstable_reasons,
        scored=None if scores is None else scores.obtained,
        timed=None if row.timing is None else timing.obtained,
        on_front=on_front,
        machine=environment.machine,
        threads=environment.threads,
        tools=_said(each.edgeq for each in row.results),
        commands=_said(each.command for each in row.results),
    )


def _numbers(scores: EvalResult[Score] | None) -> dict[str, float | None]:
    """Returns all numbers of an evaluation, its speeds and how many images it took among them, without empty ones."""
    if scores is None:
        return {}
    found = {
        "images": scores.images,
        **scores.score.numbers,
        "inference_images_per_s": scores.inference_images_per_s,
        "eval_images_per_s": scores.eval_images_per_s,
    }
    return {name: value for name, value in found.items() if value is not None}


def _said(stated: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in stated if each))


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
        score = None if row.score is None else row.score.main_value
        if row.scores is not None and row.score is not None and score is not None and row.p50_ms is not None:
            key = (row.model, str(row.scores.annotations), row.device)
            groups.setdefault(key, []).append((row.p50_ms, -score if row.score.lower_is_better else score, id(row)))
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
    whole = () if comparison.main is None else (comparison.main,)
    return Loss(
        numbers[id(comparison.row)],
        numbers[id(comparison.reference)],
        (*whole, *comparison.parts),
        comparison.classes,
    )


def _curves(comparisons: Sequence[Comparison], numbers: dict[int, int]) -> tuple[Curve, ...]:
    found = {}
    for each in comparisons:
        curve = None if each.predictions is None else each.predictions.curve()
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


def _errors(comparisons: Sequence[Comparison], numbers: dict[int, int]) -> tuple[Errors, ...]:
    diagnoses = {
        id(each.row): diagnosis
        for each in comparisons
        if each.predictions is not None
        for diagnosis in [each.predictions.diagnosis(_THRESHOLD)]
        if diagnosis is not None
    }
    errors = []
    for each in comparisons:
        diagnosis = diagnoses.get(id(each.row))
        if diagnosis is None:
            continue
        compared = each.reference is not each.row and each.without_interval is None
        reference = diagnoses.get(id(each.reference)) if compared else None
        number = None if reference is None else numbers[id(each.reference)]
        errors.append(Errors(numbers[id(each.row)], number, error_changes(diagnosis, reference), diagnosis))
    return tuple(errors)


def _differences(
    comparisons: Sequence[Comparison], numbers: dict[int, int], curves: Sequence[Curve], count: int
) -> tuple[Differences, ...]:
    worst: dict[tuple[str, str | None], Comparison] = {}
    for each in comparisons:
        if not _is_compared(each) or each.without_interval:
            continue
        key = (each.row.model, None if each.row.scores is None else each.row.scores.annotations)
        if key not in worst or _points(each) > _points(worst[key]):
            worst[key] = each
    thresholds = {curve.entry: curve.curve.best_threshold for curve in curves}
    found = []
    for each in worst.values():
        before, now = each.reference_predictions, each.predictions
        if before is None or now is None:
            continue
        entry, reference = numbers[id(each.row)], numbers[id(each.reference)]
        threshold = thresholds.get(reference, _THRESHOLD)
        examples = before.most_different(now, threshold, count)
        if examples:
            found.append(Differences(entry, reference, threshold, tuple(examples)))
    return tuple(found)


def _points(comparison: Comparison) -> float:
    return comparison.main.points if comparison.main is not None else 0.0


def _series(timing: BenchResult, number: int) -> LatencySeries:
    ms = np.asarray(timing.samples_ns, np.float64) / _NS_PER_MS
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
