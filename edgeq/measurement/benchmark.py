"""`edgeq bench`: latency, throughput, cold start, size and memory of artifacts, compared fairly.

Each artifact runs in a fresh process. All are opened first, one after another, and then timed in turns, in short rounds
(A B C A B C ...), while the others sleep: what slows the machine for longer than a round slows all of them, so that
their ratios hold where their times do not. One more process reads the machine's sensors beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
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
from edgeq.measurement.timed_file import Job, Sampling, TimedFile, with_times
from edgeq.progress import Advance, progress_bar
from edgeq.results.environment import parse_environment
from edgeq.results.measurement import BenchResult
from edgeq.runtimes import SIMULATED, choose_runtimes, get_runtime
from edgeq.runtimes.answers import Memory, Opened, Turn
from edgeq.runtimes.base import LATENCY
from edgeq.runtimes.child import LOCAL_RUNNER, RunnerProcess
from edgeq.sources.artifact_file import open_artifact

_NAMES_KERNELS = "onnxruntime"
"""The runtime whose profiler names kernels instead of nodes."""


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
                rows.append(TimedFile(job, process, opened.cold_start_ms, environment))
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
    rows: Sequence[TimedFile], sampling: Sampling, observer: Observer, cpus: Sequence[int], failures: Failures
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


def _take_turn(row: TimedFile, sampling: Sampling) -> None:
    turn = _run(row, sampling, sampling.round_runs, sampling.round_s, untimed_runs=1)
    row.rounds_ns.append(turn.samples_ns)
    row.windows.append(Window(*turn.window_ns, turn.energy_j, turn.gpu_j))
    row.clocks_mhz += turn.clock_mhz or []
    row.gpu_ns += turn.device_ns.compute
    row.enqueue_ns += turn.device_ns.enqueue


def _run(row: TimedFile, sampling: Sampling, min_runs: int, min_s: float, untimed_runs: int = 0) -> Turn:
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


def _show(advance: Advance, shown: int, done: float) -> int:
    percent = int(100 * done)
    advance(percent - shown)
    return percent


def _result(
    row: TimedFile, rows: Sequence[TimedFile], first: Job, sampling: Sampling, observed: Observations
) -> BenchResult:
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
    return result if row.emulated else with_times(result, row, rows, first, observed)
