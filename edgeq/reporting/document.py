"""Everything that a report says, as numbers and text: the page, the tables and the JSON file show the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeq.reporting.comparison import FEW, Drop
from edgeq.reporting.errors import ErrorChange
from edgeq.reporting.runs import Source
from edgeq.reporting.saturation import TensorRange
from edgeq.reporting.verdict import Verdict
from edgeq.results.compilation import CompiledFile, LayerGroup
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION, to_json
from edgeq.tasks import get_task
from edgeq.tasks.evidence import Diagnosis, Example, ScoreCurve
from edgeq.tasks.resampling import CONFIDENCE, RESAMPLES


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
        task: Task; `None` if it was not scored.
        data: Name of the annotations.
        images: How many images it was scored on.
        score_name: Name of the main score: `AP`, `top1`, `cosine`, or that of a further task.
        score: Main score, 0..1.
        reference: Number of the FP32 row that it is compared with; its own number for that row.
        drop: How far the main score is below FP32.
        no_interval: Why the drop has no interval; `None` if it has one.
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

    def score_title(self, name: str | None = None) -> str:
        """Returns what people call a number of the row's scores, by default the main one; empty if it has none."""
        wanted = name or self.score_name
        return "" if self.task is None or wanted is None else get_task(self.task).score_type.title(wanted)

    @property
    def parts_by(self) -> str:
        """What tells the parts of the main score apart: the size of the boxes, of a detector."""
        return "" if self.task is None else get_task(self.task).score_type.parts_by

    @property
    def counted(self) -> str:
        """What a class of the row's scores is counted in: boxes or images; empty without classes."""
        titles = () if self.task is None else get_task(self.task).score_type.class_titles
        return titles[0] if titles else ""

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
class Errors:
    """In what one row is wrong.

    Attributes:
        entry: Number of the row.
        reference: Number of FP32; `None` if it was not scored on the same images.
        kinds: The kinds of error, with their change from FP32; empty for a task without them.
        diagnosis: The same kinds, confused classes, precision by recall and reliability.
    """

    entry: int
    reference: int | None
    kinds: tuple[ErrorChange, ...]
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Loss:
    """Where a file loses against FP32.

    Attributes:
        entry: Number of the row.
        reference: Number of FP32.
        areas: Drop of the main score, then over each of its parts: of AP over all, small, medium and large boxes.
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
class LayerRow:
    """One layer of a file.

    Attributes:
        name: What the engine calls it, or else the file.
        kind: Kind of layer.
        precision: What it computes in; empty if that is not known.
        ms: What it takes in ms; `None` if it was not timed.
        share: Its share of the sum over the layers, 0..1; `None` if it was not timed.
        snr_db: Signal-to-noise ratio of what it gives, compared with the float model; `None` if it was not measured.
        nodes: Nodes that the engine has joined to it, if it names them.
    """

    name: str
    kind: str
    precision: str
    ms: float | None
    share: float | None
    snr_db: float | None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTable:
    """The layers of one row, in the order in which they run.

    Attributes:
        entry: Number of the row.
        profiler: What timed them; empty if they were not timed.
        runs: How many runs were profiled.
        shares: Precision -> share of the layers' time, the largest first; empty if they were not timed.
        layers: The layers.
    """

    entry: int
    profiler: str
    runs: int
    shares: Mapping[str, float]
    layers: tuple[LayerRow, ...]

    @property
    def timed(self) -> tuple[LayerRow, ...]:
        """The layers whose time is known."""
        return tuple(layer for layer in self.layers if layer.ms is not None)

    @property
    def compared(self) -> tuple[LayerRow, ...]:
        """The layers whose signal is known."""
        return tuple(layer for layer in self.layers if layer.snr_db is not None)

    @property
    def worst_first(self) -> tuple[LayerRow, ...]:
        """The layers by time, the slowest first; without times by signal, the noisiest first."""
        if self.timed:
            return tuple(sorted(self.layers, key=lambda layer: -(layer.ms or 0.0)))
        return tuple(sorted(self.layers, key=lambda layer: 0.0 if layer.snr_db is None else layer.snr_db))


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
class CompiledEntry:
    """What NVIDIA's compiler made of a file, without a GPU: it says nothing about speed or a Jetson's TensorRT.

    Attributes:
        entries: Numbers of the rows of the same file.
        file: The file, and what became of it layer by layer.
        verdict: Whether there is an engine, and if not, who refused the file.
        agreeing: How many layers are computed as planned.
        groups: The layers, counted by operator and by what they were planned and compiled to.
    """

    entries: tuple[int, ...]
    file: CompiledFile
    verdict: str
    agreeing: int
    groups: tuple[LayerGroup, ...]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        version: Version of edgeq that made it.
        entries: The overview.
        losses: One for each row that is compared with FP32.
        curves: One for each row of a detector.
        errors: One for each row whose task can tell why it is wrong.
        differences: One for each model, of the file that lost most.
        latency: One for each row that was timed.
        ranges: One for each ranges file.
        compiled: One for each file that NVIDIA's compiler was given.
        sentences: How every figure was obtained.
        sources: The files it was made from.
        verdicts: One for each model and device, on its fastest quantized file.
        layers: One for each row whose layers were timed or compared with the float model's.
        written: When it was written, ISO 8601; empty if that is not stated.
    """

    version: str
    entries: tuple[Entry, ...]
    losses: tuple[Loss, ...]
    curves: tuple[Curve, ...]
    errors: tuple[Errors, ...]
    differences: tuple[Differences, ...]
    latency: tuple[LatencySeries, ...]
    ranges: tuple[RangesTable, ...]
    compiled: tuple[CompiledEntry, ...]
    sentences: tuple[str, ...]
    sources: tuple[Source, ...]
    verdicts: tuple[Verdict, ...] = field(default=(), metadata=OMIT_EMPTY)
    layers: tuple[LayerTable, ...] = field(default=(), metadata=OMIT_EMPTY)
    written: str = field(default="", metadata=OMIT_EMPTY)

    def entry(self, number: int) -> Entry:
        """Returns the row of that number."""
        return self.entries[number - 1]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON object; drops are in points, hundredths of the score."""
        document: dict[str, Any] = to_json(self)
        interval = f"paired percentile bootstrap over images, {RESAMPLES} draws, {CONFIDENCE:.0%}; in points"
        return {
            "format": "edgeq-report",
            "results_version": RESULTS_VERSION,
            "interval": interval,
            "few_boxes": FEW,
            **document,
        }
