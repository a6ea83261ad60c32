"""Everything that a report says, as numbers and text: the page, the tables and the JSON file show the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import edgeq
from edgeq.predictions import DetectionPredictions
from edgeq.report.average_precision import AREAS
from edgeq.report.comparison import CONFIDENCE, FEW, RESAMPLES, Comparison, Drop, compare
from edgeq.report.differences import Example, most_different
from edgeq.report.runs import Runs, Source
from edgeq.report.saturation import TensorRange, tensor_ranges
from edgeq.report.threshold import ScoreCurve, score_curve
from edgeq.verbs.report import Row, provenance

SCORE_TITLES = {"AP": "AP", "top1": "top-1", "cosine": "cosine"}
"""Main score of a task, as results name it -> as people read it."""

# Points of a plotted run; of longer ones every stretch is shown by its least and its largest sample.
_PLOTTED = 300
_NS_PER_MS = 1e6
# Where nothing tells the best threshold, what people commonly draw boxes from.
_THRESHOLD = 0.3


@dataclass(frozen=True)
class Entry:
    """One row of the overview; `None` is what was not measured.

    Attributes:
        number: Its number in the report, from 1.
        model: Name of the model.
        artifact: File name.
        digest: SHA-256 of the file.
        device: Name of the device.
        runtime: Name of the runtime.
        engine: Engine with its version.
        precision: Precision of the file.
        compute: What float layers were computed in.
        target: Target that it was written for.
        task: Task; `None` where it was not scored.
        data: Name of the annotations.
        images: How many images it was scored on.
        score_name: `AP`, `top1` or `cosine`.
        score: Main score, 0..1.
        reference: Number of the FP32 row that it is compared with; its own number for that row.
        drop: How far the main score is below FP32.
        no_interval: Why the drop has no interval; `None` where it has one.
        scores: All numbers of the evaluation.
        p50_ms: Median latency.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        gpu_ms: Median of the GPU's own time.
        preprocess_ms: Time of pre-processing an image.
        postprocess_ms: Time of reading the outputs.
        cold_start_ms: From the start of a process to the first result.
        throughput_per_s: Inferences a second.
        ratio_to_fp32: Time over that of FP32, timed in turns.
        size_bytes: Size of the file.
        memory_bytes: Peak memory of the process.
        j_per_image: Energy of an image, idle included.
        idle_share: Share of it that the idle machine would have taken.
        energy_source: What measured the energy.
        runs: Number of timed runs.
        drift: Median of the last third of the runs over that of the first, minus 1.
        stable: Whether the run was a steady state.
        unstable_reasons: Why it was not.
        scored: How the score was obtained: measured or simulated.
        timed: How the latency was obtained: measured or emulated.
        on_front: Whether nothing of the same model and device is both faster and better.
        machine: CPU or board, system and Python.
        threads: Threads of the engine.
        tools: Versions of edgeq that made the results, where these tell.
        commands: The commands that made them.
    """

    number: int
    model: str
    artifact: str
    digest: str
    device: str
    runtime: str
    engine: str
    precision: str
    compute: str
    target: str
    task: str | None
    data: str | None
    images: int | None
    score_name: str | None
    score: float | None
    reference: int | None
    drop: Drop | None
    no_interval: str | None
    scores: dict[str, float | None]
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    gpu_ms: float | None
    preprocess_ms: float | None
    postprocess_ms: float | None
    cold_start_ms: float | None
    throughput_per_s: float | None
    ratio_to_fp32: float | None
    size_bytes: int | None
    memory_bytes: int | None
    j_per_image: float | None
    idle_share: float | None
    energy_source: str | None
    runs: int | None
    drift: float | None
    stable: bool | None
    unstable_reasons: tuple[str, ...]
    scored: str | None
    timed: str | None
    on_front: bool
    machine: str
    threads: int | None
    tools: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def precision_name(self) -> str:
        """Precision of the file, and of its float layers where that is not f32."""
        return f"{self.precision} ({self.compute})" if self.compute not in ("", "f32") else self.precision

    @property
    def states(self) -> tuple[str, ...]:
        """What a reader has to know of how it was obtained."""
        labels = {each for each in (self.scored, self.timed) if each not in (None, "measured")}
        steady = {True: ("stable",), False: ("unstable",), None: ()}[self.stable]
        return (*sorted(str(each) for each in labels), *steady)


@dataclass(frozen=True)
class Curve:
    """F1 by threshold of one row.

    Attributes:
        entry: Number of the row.
        curve: The curve.
        f1_at_reference: F1 at the threshold that is best for FP32; `None` without FP32.
        shift: Best threshold minus that of FP32.
    """

    entry: int
    curve: ScoreCurve
    f1_at_reference: float | None
    shift: float | None


@dataclass(frozen=True)
class Loss:
    """Where a file loses against FP32.

    Attributes:
        entry: Number of the row.
        reference: Number of FP32.
        areas: Drop of AP over all boxes, small, medium and large ones.
        classes: Drop of every class, the most lost first.
    """

    entry: int
    reference: int
    areas: tuple[Drop, ...]
    classes: tuple[Drop, ...]


@dataclass(frozen=True)
class Differences:
    """Images on which a file differs most from FP32.

    Attributes:
        entry: Number of the row: of the model's files the one that lost most.
        reference: Number of FP32.
        threshold: Score from which boxes are shown: the best one for FP32.
        examples: The images, the worst first.
    """

    entry: int
    reference: int
    threshold: float
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class LatencySeries:
    """The runs of one row, in order.

    Attributes:
        entry: Number of the row.
        runs: How many there were.
        at: Position of each point, 0 to `runs - 1`.
        ms: Time of each point; of more than 300 runs the least and the largest of every stretch.
        quantiles_ms: The 0th, 1st, ..., 100th percentile.
    """

    entry: int
    runs: int
    at: tuple[int, ...]
    ms: tuple[float, ...]
    quantiles_ms: tuple[float, ...]


@dataclass(frozen=True)
class RangesTable:
    """The tensors of one ranges file.

    Attributes:
        file: File name.
        model: Name of the model; its digest where no row is of it.
        method: Method of the ranges.
        images: Images that were counted.
        tensors: The tensors, those that lose most first.
    """

    file: str
    model: str
    method: str
    images: int
    tensors: tuple[TensorRange, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        version: Version of edgeq that made it.
        entries: The overview.
        losses: One for each row that is compared with FP32.
        curves: One for each row of a detector.
        differences: One for each model, of the file that lost most.
        latency: One for each row that was timed.
        ranges: One for each ranges file.
        sentences: How every figure was obtained.
        sources: The files it was made from.
    """

    version: str
    entries: tuple[Entry, ...]
    losses: tuple[Loss, ...]
    curves: tuple[Curve, ...]
    differences: tuple[Differences, ...]
    latency: tuple[LatencySeries, ...]
    ranges: tuple[RangesTable, ...]
    sentences: tuple[str, ...]
    sources: tuple[Source, ...]

    def entry(self, number: int) -> Entry:
        """Returns the row of that number."""
        return self.entries[number - 1]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON object; drops are in points, hundredths of the score."""
        document: dict[str, Any] = dataclasses.asdict(self)
        interval = f"paired percentile bootstrap over images, {RESAMPLES} draws, {CONFIDENCE:.0%}; in points"
        return {"format": "edgeq-report", "interval": interval, "few_boxes": FEW, **document}


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
