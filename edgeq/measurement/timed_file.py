"""A file that is measured: how long, what has come back so far, and what that says of its speed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeq.exporting.artifact import Artifact
from edgeq.measurement.telemetry import Observations, Window
from edgeq.results.environment import Environment
from edgeq.results.measurement import BenchResult, ColdStart, LatencyStatistics
from edgeq.runtimes.base import LATENCY
from edgeq.runtimes.child import RunnerProcess
from edgeq.runtimes.latency import Latency, clock_reasons, drift_reasons, interleaved_ratio, summarize

_NS_PER_S = 1e9
_LAUNCH_BOUND = 0.8


@dataclass(frozen=True)
class Job:
    """One row of a benchmark.

    Attributes:
        artifact: What is run.
        runtime: The runtime that runs it.
        compute_precision: What float layers are computed in, see `edgeq.runtimes.open_session`.
        hint: What the engine is tuned for, the `latency` of one request at a time or the `throughput` of several.
    """

    artifact: Artifact
    runtime: str
    compute_precision: str | None = None
    hint: str = LATENCY


@dataclass(frozen=True)
class Sampling:
    """How long is measured.

    Attributes:
        warmup_runs: Runs before the first sample, at least.
        warmup_s: Seconds before the first sample, at least.
        min_runs: Samples of each artifact, at least.
        min_s: Sum of the samples of each artifact, at least.
        max_s: Sum of the samples from which an artifact counts as measured, however few they are; a longer `min_s`
            extends it.
        round_runs: Samples of an artifact in one round, at least.
        round_s: Sum of the samples of an artifact in one round, at least.
        timeout_s: How long a process may be silent beyond the time it was asked to run for.
        idle_s: Seconds over which idle power is measured before engines load, on machines that tell their power.
        layers: Whether each layer is timed too, by the engine's profiler.
    """

    warmup_runs: int = 10
    warmup_s: float = 0.5
    min_runs: int = 100
    min_s: float = 3.0
    max_s: float = 60.0
    round_runs: int = 3
    round_s: float = 0.2
    timeout_s: float = 300.0
    idle_s: float = 2.0
    layers: bool = False


@dataclass
class TimedFile:
    """A job, the process that runs it and what has come back so far."""

    job: Job
    process: RunnerProcess
    cold_start_ms: ColdStart
    environment: Environment
    rounds_ns: list[list[int]] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    clocks_mhz: list[float] = field(default_factory=list)
    gpu_ns: list[int] = field(default_factory=list)
    enqueue_ns: list[int] = field(default_factory=list)

    @property
    def emulated(self) -> bool:
        """Whether it runs on an emulated CPU, whose times describe the host."""
        return self.environment.emulated

    @property
    def samples_ns(self) -> list[int]:
        """The time of each run, over all rounds."""
        return list(itertools.chain.from_iterable(self.rounds_ns))

    @property
    def images(self) -> int:
        """How many images the timed runs took: `make_inputs` fills a free batch dimension with one."""
        shape = self.job.artifact.inputs[0].shape
        return len(self.samples_ns) * self.requests * ((shape[0] if shape else None) or 1)

    @property
    def requests(self) -> int:
        """How many requests a run consists of, which the engine works on at the same time."""
        return int(self.environment.further.get("requests", 1))

    def progress(self, sampling: Sampling) -> float:
        """Returns how much of the sampling is done, in [0, 1]."""
        elapsed_s = sum(self.samples_ns) / _NS_PER_S
        enough = min(_part(len(self.samples_ns), sampling.min_runs), _part(elapsed_s, sampling.min_s))
        return min(1.0, max(enough, _part(elapsed_s, max(sampling.max_s, sampling.min_s))))


def _part(done: float, wanted: float) -> float:
    return done / wanted if wanted > 0 else 1.0


def with_times(
    result: BenchResult, row: TimedFile, rows: Sequence[TimedFile], first: Job, observed: Observations
) -> BenchResult:
    """Returns a result with the times of a file.

    Args:
        result: What else is known of it.
        row: The file.
        rows: All files that took turns.
        first: The job that ratios are taken to.
        observed: What the sensors said meanwhile.
    """
    latency = summarize(row.samples_ns)
    reasons = _unstable_reasons(row, latency.drift, observed)
    gpu, enqueue = (summarize(times) if times else None for times in (row.gpu_ns, row.enqueue_ns))
    return dataclasses.replace(
        result,
        latency_ms=_statistics(latency),
        throughput_per_s=latency.throughput_per_s * row.requests,
        cold_start_ms=row.cold_start_ms,
        ratio_to_first=interleaved_ratio(row.rounds_ns, rows[0].rounds_ns) if rows[0].job is first else None,
        ratio_to_fp32=_ratio_to_fp32(row, rows),
        runs=latency.runs,
        drift=latency.drift,
        stable=not reasons,
        unstable_reasons=tuple(reasons),
        obtained="measured",
        gpu_ms=None if gpu is None else _statistics(gpu),
        enqueue_ms=None if enqueue is None else _statistics(enqueue),
        # Where handing a run over takes most of the time that the GPU computes, the CPU sets the pace (trtexec warns of
        # it at the same share).
        launch_bound=None if gpu is None or enqueue is None else enqueue.p50 > _LAUNCH_BOUND * gpu.p50,
    )


def _statistics(latency: Latency) -> LatencyStatistics:
    return LatencyStatistics(
        p50=latency.p50,
        p90=latency.p90,
        p99=latency.p99,
        mean=latency.mean,
        min=latency.min,
        max=latency.max,
        mad=latency.mad,
    )


def _unstable_reasons(row: TimedFile, drift: float, observed: Observations) -> list[str]:
    """Returns why an artifact was timed in no steady state; nothing if it was.

    Clocks are those of its own turns; throttling anywhere in the interleaved run concerns all artifacts.
    """
    on_gpu = bool(row.gpu_ns)
    clock = clock_reasons(row.clocks_mhz, "GPU" if on_gpu else "CPU")
    governors = observed.governors()
    if clock and governors and not on_gpu:
        clock = [f"{clock[0]} (governor {', '.join(governors)})"]
    return [*drift_reasons(drift), *clock, *observed.troubles(gpu=on_gpu)]


def _ratio_to_fp32(row: TimedFile, rows: Sequence[TimedFile]) -> float | None:
    """Returns the interleaved ratio to the same model's FP32 file, computed in f32, in the same runtime."""
    for other in rows:
        same = (
            other.job.artifact.source_digest == row.job.artifact.source_digest and other.job.runtime == row.job.runtime
        )
        computed = other.environment.compute_precision
        if same and other.job.artifact.precision == "fp32" and computed == "f32":
            return interleaved_ratio(row.rounds_ns, other.rounds_ns)
    return None
