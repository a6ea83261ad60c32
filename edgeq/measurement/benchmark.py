"""`edgeq bench`: latency, throughput, cold start, size and memory of artifacts, compared fairly.

Each artifact runs in a fresh process. All are opened first, one after another, and then timed in turns, in short rounds
(A B C A B C ...), while the others sleep: what slows the machine for longer than a round slows all of them, so that
their ratios hold where their times do not. One more process reads the machine's sensors beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.machine import default_threads, read_machine
from edgeq.measurement.kernel_nodes import with_nodes
from edgeq.measurement.later_questions import Stages, ask_for_layers, ask_for_stages
from edgeq.measurement.partly_measured import Failures
from edgeq.measurement.stage_timing import MIN_RUNS, MIN_S
from edgeq.measurement.telemetry import Observations, Observer, Window
from edgeq.progress import Advance, progress_bar
from edgeq.results.environment import Environment, parse_environment
from edgeq.results.measurement import BenchResult, ColdStart, LatencyStatistics
from edgeq.runtimes import SIMULATED, choose_runtimes, get_runtime
from edgeq.runtimes.answers import Memory, Opened, Turn
from edgeq.runtimes.base import LATENCY
from edgeq.runtimes.child import LOCAL_RUNNER, RunnerProcess
from edgeq.runtimes.latency import Latency, clock_reasons, drift_reasons, interleaved_ratio, summarize
from edgeq.sources.artifact_file import open_artifact

_NS_PER_S = 1e9
_NAMES_KERNELS = "onnxruntime"
"""The runtime whose profiler names kernels instead of nodes."""
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
class _Row:
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
        return self.environment.emulated

    @property
    def samples_ns(self) -> list[int]:
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


def bench_artifacts(
    paths: Sequence[Path],
    runtimes: Sequence[str] = (),
    *,
    compute_precisions: Sequence[str] = (),
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    sampling: Sampling | None = None,
) -> list[BenchResult]:
    """Returns one result for each artifact, runtime and compute precision, in this order; see `bench_jobs`.

    Args:
        paths: Model files, or their manifests; `.onnx` and `.tflite` files need none.
        runtimes: Runtimes to run each in; by default the first of its target that is installed.
        compute_precisions: What float layers are computed in (`f32`, `bf16`, `f16`); by default f32 for an `fp32` file
            and the engine's choice for every other.
        threads: CPU threads of each engine; by default the physical cores, or `cpus`, that this process may use.
        cpus: CPUs that each process is pinned to; by default all.
        sampling: How long is measured.

    Raises:
        InputError: a file, runtime or number cannot be used.
        MismatchError: a file is not the one that its manifest describes.
        EngineError: an engine refuses a file, or its process died, hung or answered nonsense.
    """
    jobs = make_jobs(open_artifacts(paths), runtimes, compute_precisions)
    return bench_jobs(jobs, threads=threads, cpus=cpus, sampling=sampling)


def open_artifacts(paths: Sequence[Path]) -> list[Artifact]:
    """Returns what `bench_artifacts` takes, opened; the errors are its, too."""
    if not paths:
        raise InputError("no artifact to bench; name at least one file that `edgeq export` wrote")
    return [open_artifact(path) for path in paths]


def make_jobs(
    artifacts: Sequence[Artifact],
    runtimes: Sequence[str],
    compute_precisions: Sequence[str],
    choose: Callable[[Artifact, Sequence[str]], list[str]] = choose_runtimes,
    hint: str = LATENCY,
) -> list[Job]:
    """Returns what `bench_artifacts` runs; `choose` names the runtimes of an artifact where it is to run."""
    for runtime in runtimes:
        get_runtime(runtime)
    jobs = [
        Job(artifact, runtime, compute, hint)
        for artifact in artifacts
        for runtime in choose(artifact, runtimes)
        for compute in (compute_precisions or (None,))
    ]
    for job in jobs:
        if job.runtime in SIMULATED:
            narrow = job.artifact.quantization_facts.simulated_bits is not None
            instead = (
                "no engine has its kernels, score it with `edgeq eval`" if narrow else "run edgeq bench on the device"
            )
            raise InputError(f"`runtime` {job.runtime}: a simulation has no latency; {instead}")
    return jobs


def bench_jobs(
    jobs: Sequence[Job],
    *,
    threads: int | None = None,
    cpus: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    runner: Sequence[str] = LOCAL_RUNNER,
    locate: Callable[[Artifact], str] | None = None,
) -> list[BenchResult]:
    """Returns one result for each job, in their order, from one interleaved run.

    Args:
        jobs: What is run; the first is the one that ratios are taken to.
        threads: CPU threads of each engine; by default the physical cores, or `cpus`, that this process may use.
        cpus: CPUs that each process is pinned to; by default all.
        sampling: How long is measured.
        runner: Argument list that starts `edgeq.runtimes.runner`.
        locate: Artifact -> path of its file for the runner; by default the one here.

    Raises:
        PartlyMeasuredError: an engine failed on some of the files; the error has the results of the others.
        EdgeqError: see `bench_artifacts`.
    """
    sampling = sampling or Sampling()
    if threads is None:
        threads = default_threads(read_machine())
        threads = min(threads, len(cpus)) if cpus else threads
    if threads < 1:
        raise InputError(f"`threads` {threads}: wanted at least 1")
    with contextlib.ExitStack() as processes:
        observer = processes.enter_context(Observer(runner, sampling.idle_s))
        rows, failures = [], Failures()
        for job in jobs:
            process = processes.enter_context(RunnerProcess(f"{job.artifact.name} in {job.runtime}", runner))
            with failures.noted(process):
                opened = process.ask_for(
                    Opened,
                    sampling.timeout_s,
                    "open",
                    **_place(job.artifact, locate),
                    runtime=job.runtime,
                    threads=threads,
                    compute_precision=job.compute_precision,
                    hint=job.hint,
                    cpus=None if cpus is None else list(cpus),
                )
                environment = parse_environment(opened.environment, source=job.artifact.name, error=EngineError)
                rows.append(_Row(job, process, opened.cold_start_ms, environment))
        if not any(row.emulated for row in rows):
            _sample(rows, sampling, observer, cpus or (), failures)
        results = []
        for row in (working := failures.left(rows)):
            with failures.noted(row.process):
                results.append(_result(row, working, jobs[0], sampling, observer.observations))
    failures.tell(results)
    return results


def _place(artifact: Artifact, locate: Callable[[Artifact], str] | None) -> dict[str, Any]:
    """Returns where the runner finds a file, and its manifest where none lies beside it."""
    if locate is not None:
        return {"artifact": locate(artifact), "manifest": artifact.to_json()}
    manifest = None if artifact.manifest_path.is_file() else artifact.to_json()
    return {"artifact": str(artifact.path.resolve()), "manifest": manifest}


def _sample(
    rows: Sequence[_Row], sampling: Sampling, observer: Observer, cpus: Sequence[int], failures: Failures
) -> None:
    with progress_bar(100, "bench", unit="%") as advance:
        for row in failures.left(rows):
            with failures.noted(row.process):
                _run(row, sampling, sampling.warmup_runs, sampling.warmup_s)
        shown = 0
        with observer.watching(cpus):
            while (done := min(row.progress(sampling) for row in failures.left(rows))) < 1:
                for row in failures.left(rows):
                    with failures.noted(row.process):
                        _take_turn(row, sampling)
                shown = _show(advance, shown, done)
        _show(advance, shown, 1)


def _take_turn(row: _Row, sampling: Sampling) -> None:
    turn = _run(row, sampling, sampling.round_runs, sampling.round_s, untimed_runs=1)
    row.rounds_ns.append(turn.samples_ns)
    row.windows.append(Window(*turn.window_ns, turn.energy_j, turn.gpu_j))
    row.clocks_mhz += turn.clock_mhz or []
    row.gpu_ns += turn.device_ns.compute
    row.enqueue_ns += turn.device_ns.enqueue


def _run(row: _Row, sampling: Sampling, min_runs: int, min_s: float, untimed_runs: int = 0) -> Turn:
    """Returns the samples of one turn. The untimed run brings back the caches that the others took."""
    return row.process.ask_for(
        Turn,
        sampling.timeout_s + sampling.max_s,
        "run",
        untimed_runs=untimed_runs,
        min_runs=min_runs,
        min_s=min_s,
        max_s=sampling.max_s,
    )


def _part(done: float, wanted: float) -> float:
    return done / wanted if wanted > 0 else 1.0


def _show(advance: Advance, shown: int, done: float) -> int:
    percent = int(100 * done)
    advance(percent - shown)
    return percent


def _result(row: _Row, rows: Sequence[_Row], first: Job, sampling: Sampling, observed: Observations) -> BenchResult:
    artifact = row.job.artifact
    memory = row.process.ask_for(Memory, sampling.timeout_s, "report")
    stages, layers = Stages(), None
    if not row.emulated:
        # Who wants few samples of the model wants no more of what surrounds it.
        enough = min(MIN_RUNS, sampling.min_runs), min(MIN_S, sampling.min_s)
        stages = ask_for_stages(row.process, artifact.name, sampling.timeout_s, *enough)
        if sampling.layers:
            layers = ask_for_layers(row.process, f"{artifact.name} in {row.job.runtime}", sampling.timeout_s)
            if layers is not None and row.job.runtime == _NAMES_KERNELS:
                layers = with_nodes(layers, artifact.path)
    result = BenchResult(
        artifact=artifact.name,
        digest=artifact.digest,
        source_digest=artifact.source_digest,
        target=artifact.target,
        runtime=row.job.runtime,
        precision=artifact.precision,
        size_bytes=artifact.size_bytes if artifact.path.is_file() else None,  # an engine that was built on a device
        runs=0,
        obtained="emulated",
        preprocess_ms=stages.preprocess_ms,
        postprocess_ms=stages.postprocess_ms,
        layers=layers,
        signal=artifact.quantization_facts.signal_course,
        energy=observed.energy(row.windows, row.images),
        peak_rss_bytes=memory.peak_rss_bytes,
        baseline_rss_bytes=memory.baseline_rss_bytes,
        environment=row.environment,
        sensors=observed.sensors(),
        load_average=observed.load_average(),
        round_runs=tuple(len(samples) for samples in row.rounds_ns),
        samples_ns=tuple(row.samples_ns),
    )
    # Times of an emulated CPU would describe the host.
    return result if row.emulated else _with_times(result, row, rows, first, observed)


def _with_times(
    result: BenchResult, row: _Row, rows: Sequence[_Row], first: Job, observed: Observations
) -> BenchResult:
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


def _unstable_reasons(row: _Row, drift: float, observed: Observations) -> list[str]:
    """Returns why an artifact was timed in no steady state; nothing if it was.

    Clocks are those of its own turns; throttling anywhere in the interleaved run concerns all artifacts.
    """
    on_gpu = bool(row.gpu_ns)
    clock = clock_reasons(row.clocks_mhz, "GPU" if on_gpu else "CPU")
    governors = observed.governors()
    if clock and governors and not on_gpu:
        clock = [f"{clock[0]} (governor {', '.join(governors)})"]
    return [*drift_reasons(drift), *clock, *observed.troubles(gpu=on_gpu)]


def _ratio_to_fp32(row: _Row, rows: Sequence[_Row]) -> float | None:
    """Returns the interleaved ratio to the same model's FP32 file, computed in f32, in the same runtime."""
    for other in rows:
        same = (
            other.job.artifact.source_digest == row.job.artifact.source_digest and other.job.runtime == row.job.runtime
        )
        computed = other.environment.compute_precision
        if same and other.job.artifact.precision == "fp32" and computed == "f32":
            return interleaved_ratio(row.rounds_ns, other.rounds_ns)
    return None
