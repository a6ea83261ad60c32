"""`BenchResult`: what `edgeq bench` measures of one file in one engine on one device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from edgeq.boundary import Count, NotNegative, Positive
from edgeq.exporting.signal.ratio import LayerSignal
from edgeq.results.environment import Environment
from edgeq.results.serialization import OMIT_EMPTY, RESULTS_VERSION

MAX_DRIFT = 0.05
"""Share by which the last third of the samples may be slower or faster than the first in a steady state."""


@dataclass(frozen=True, kw_only=True)
class LatencyStatistics:
    """Times of single runs in ms; `None` if there are too few samples for it, or the CPU was emulated.

    Attributes:
        p50: Median.
        p90: 90th percentile; from 64 runs.
        p99: 99th percentile; from 662 runs.
        mean: Mean.
        min: Shortest.
        max: Longest.
        mad: Median absolute deviation from the median.
    """

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    mad: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageStatistics:
    """Times of pre- or post-processing of one image, in ms.

    Attributes:
        runs: How often it was timed.
        p50: Median.
        p90: 90th percentile.
        mean: Mean.
        min: Shortest.
        max: Longest.
        mad: Median absolute deviation from the median.
        image_px: Height and width of the image, in pixels; only for pre-processing.
    """

    runs: Count = 0
    p50: float | None = None
    p90: float | None = None
    mean: float | None = None
    min: float | None = None
    max: float | None = None
    mad: float | None = None
    image_px: tuple[Count, Count] | None = field(default=None, metadata=OMIT_EMPTY)


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """Times from the start of a process to the first result, in ms.

    Attributes:
        start: From the start of the process to Python; `None` if the system does not report it.
        import_: Importing the engine.
        load: Loading the file.
        first: The first run.
    """

    start: float | None = None
    import_: float | None = msgspec.field(name="import", default=None)
    load: float | None = None
    first: float | None = None

    @property
    def total_ms(self) -> float | None:
        """The sum of what is known, in ms; `None` if nothing is."""
        known = [part for part in (self.start, self.import_, self.load, self.first) if part is not None]
        return sum(known) if known else None


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of the timed runs.

    Attributes:
        j_per_image: Energy of one image in J, the idle machine's share included.
        idle_share: Share of it that the idle machine would have taken in that time, 0..1; `None` if that was not
            measured.
        source: What was measured.
        window_s: Length of the timed turns in s.
        watts: Mean power in them in W.
        idle_watts: Mean power of the idle machine in W.
    """

    j_per_image: float | None = None
    idle_share: float | None = None
    source: str = ""
    window_s: float | None = None
    watts: float | None = None
    idle_watts: float | None = None


@dataclass(frozen=True, kw_only=True)
class SensorReadings:
    """Readings of the machine's sensors, each as `edgeq.sensors` describes it.

    Attributes:
        before: Kind of sensor -> reading, before any engine was loaded.
        after: The same after the timed runs.
        series: Readings during the timed runs, each with its time `t_s` in s.
        sampler_cpu_share: Share of one CPU that reading them took, 0..1.
    """

    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] | None = None
    series: tuple[Mapping[str, Any], ...] = ()
    sampler_cpu_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class LoadAverage:
    """The system's load averages over 1, 5 and 15 minutes; `None` if it does not report them.

    Attributes:
        before: Before any engine was loaded.
        after: After the timed runs.
    """

    before: tuple[float, ...] | None = None
    after: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSpeed:
    """How fast a bundle writes text; `latency_ms` is then that of a token after the first.

    Attributes:
        prompt_tokens: Tokens of the prompt, those of an image included.
        new_tokens: Tokens that followed it.
        prefill_ms: Median time from the prompt to the first token, the image included.
        images_ms: Median time of the image alone; `None` without one.
        tokens_per_s: Tokens per second after the first.
        part_bytes: Part -> how much the process grew when the part was opened, in bytes.
    """

    prompt_tokens: Count
    new_tokens: Count
    prefill_ms: float
    images_ms: float | None = None
    tokens_per_s: float
    part_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerTime:
    """What one layer of an engine took, by the engine's profiler.

    Attributes:
        name: What the engine calls it.
        kind: The engine's kind of layer.
        precision: What it computes in: int8, fp32, fp16, bf16, or as the engine says; empty if it does not.
        ms: Time of a run in ms: the mean over the faster half of the runs.
        nodes: Nodes of the file that it computes, if the engine names them; by default the one of its name.
    """

    name: str
    kind: str
    precision: str
    ms: NotNegative
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerProfile:
    """Times of layers. Profiling slows an engine down: their shares of the sum say more than the times.

    Attributes:
        profiler: What measured them.
        runs: How many runs.
        layers: The layers, in the order in which they run.
    """

    profiler: str
    runs: Count
    layers: tuple[LayerTime, ...]

    @property
    def total_ms(self) -> float:
        """Sum of the layers' times in ms."""
        return sum(layer.ms for layer in self.layers)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """One file, in one engine, on one device, timed in turns with the others of its run.

    Attributes:
        artifact: File name.
        digest: SHA-256 of the file.
        source_digest: Digest of the float graph that it was made from.
        target: Target that it was written for; empty for a file of another tool.
        runtime: Name of the runtime.
        precision: Precision of the file, as its manifest states it.
        size_bytes: Size of the file in bytes.
        latency_ms: Times of single runs in ms.
        throughput_per_s: Runs per second, 1 over the mean time.
        cold_start_ms: Times from the start of a process to the first result in ms; `None` on an emulated CPU.
        ratio_to_first: Time divided by that of the first file in the run, median over the rounds.
        ratio_to_fp32: Time divided by that of the model's FP32 file in the same runtime, median over the rounds; `None`
            without one.
        runs: Number of timed runs.
        drift: Median of the last third of the runs divided by that of the first third, minus 1.
        stable: Whether the times were steady; `None` on an emulated CPU.
        unstable_reasons: Why they were not, in sentences.
        obtained: `measured`, or `emulated` and then without times.
        preprocess_ms: Times of pre-processing an image in ms; `None` if the manifest does not describe it.
        postprocess_ms: Times of decoding the outputs in ms; `None` if the manifest does not describe it.
        energy: Energy of the timed runs; `None` if the machine does not report its power.
        peak_rss_bytes: Peak memory of the process in bytes.
        baseline_rss_bytes: The peak before the file was loaded, in bytes.
        gpu_ms: The GPU's own time for the network in ms, without copies; only for engines on a GPU.
        enqueue_ms: The CPU's time to hand a run over in ms; only for engines on a GPU.
        launch_bound: Whether the CPU sets the pace; only for engines on a GPU.
        generation: How fast it writes text; only for bundles.
        layers: Times of its layers; only from `edgeq bench --layers`, of engines with a profiler.
        signal: How much of the float model's signal is left at each of its layers, as its manifest states it; absent if
            it states nothing.
        environment: Engine, settings and machine.
        sensors: Readings of the machine's sensors; `None` if it has none.
        load_average: The system's load averages.
        round_runs: How many of `samples_ns` belong to each round.
        device: Name of the device; absent if the file was run from Python.
        edgeq: Version of edgeq that measured it.
        command: The command that measured it.
        results_version: Version of this form.
        samples_ns: Every timed run in ns, round after round.
    """

    artifact: str
    digest: str = ""
    source_digest: str = ""
    target: str = ""
    runtime: str
    precision: str
    size_bytes: Count | None = None
    latency_ms: LatencyStatistics = field(default_factory=LatencyStatistics)
    throughput_per_s: float | None = None
    cold_start_ms: ColdStart | None = None
    ratio_to_first: float | None = None
    ratio_to_fp32: float | None = None
    runs: Count | None = None
    drift: float | None = None
    stable: bool | None = None
    unstable_reasons: tuple[str, ...] = ()
    obtained: Literal["measured", "emulated"] = "measured"
    preprocess_ms: StageStatistics | None = None
    postprocess_ms: StageStatistics | None = None
    energy: Energy | None = None
    peak_rss_bytes: Count | None = None
    baseline_rss_bytes: Count | None = None
    gpu_ms: LatencyStatistics | None = field(default=None, metadata=OMIT_EMPTY)
    enqueue_ms: LatencyStatistics | None = field(default=None, metadata=OMIT_EMPTY)
    launch_bound: bool | None = field(default=None, metadata=OMIT_EMPTY)
    generation: GenerationSpeed | None = field(default=None, metadata=OMIT_EMPTY)
    layers: LayerProfile | None = field(default=None, metadata=OMIT_EMPTY)
    signal: tuple[LayerSignal, ...] = field(default=(), metadata=OMIT_EMPTY)
    environment: Environment = field(default_factory=Environment)
    sensors: SensorReadings | None = None
    load_average: LoadAverage = field(default_factory=LoadAverage)
    round_runs: tuple[Count, ...] = ()
    device: str | None = field(default=None, metadata=OMIT_EMPTY)
    edgeq: str | None = field(default=None, metadata=OMIT_EMPTY)
    command: str | None = field(default=None, metadata=OMIT_EMPTY)
    results_version: Positive = RESULTS_VERSION
    samples_ns: tuple[Positive, ...] = ()

    @property
    def cold_start_total_ms(self) -> float | None:
        """Time from the start of a process to the first result in ms, from the parts that are known."""
        return None if self.cold_start_ms is None else self.cold_start_ms.total_ms

    @property
    def gpu_p50_ms(self) -> float | None:
        """Median of the GPU's own time in ms; `None` for engines on the CPU."""
        return None if self.gpu_ms is None else self.gpu_ms.p50

    @property
    def j_per_image(self) -> float | None:
        """Energy of one image in J; `None` if it was not measured."""
        return None if self.energy is None else self.energy.j_per_image

    @property
    def rounds_ns(self) -> tuple[tuple[int, ...], ...]:
        """The runs of each round in ns; none if `round_runs` do not add up to them."""
        if sum(self.round_runs) != len(self.samples_ns) or 0 in self.round_runs:
            return ()
        ends = itertools.accumulate(self.round_runs)
        return tuple(self.samples_ns[end - runs : end] for end, runs in zip(ends, self.round_runs, strict=True))
