"""Bundles timed while they generate: in turns, each turn of each in a fresh process."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeq.boundary import parse_json
from edgeq.bundles.manifest import MANIFEST_NAME, Bundle
from edgeq.errors import EngineError, InputError
from edgeq.files import sha256_file
from edgeq.generation.parts import artifact_of, precision_of
from edgeq.generation.timed_process import Timed, TimedJob
from edgeq.machine import default_threads, read_machine
from edgeq.progress import progress_bar
from edgeq.results.environment import parse_environment
from edgeq.results.measurement import BenchResult, GenerationSpeed, LatencyStatistics
from edgeq.runtimes import default_runtime
from edgeq.runtimes.latency import drift_reasons, interleaved_ratio, summarize

_TIMEOUT_S = 1800
_LAST_CHARACTERS = 300


@dataclass(frozen=True)
class GenerationSampling:
    """What is measured of each bundle.

    Attributes:
        prompt_tokens: Tokens of the prompt, those of an image included; cut so that prompt and text fit the context.
        new_tokens: Tokens that follow it, at least 2.
        rounds: Turns of each bundle.
        seconds: Least time of a bundle, over all turns.
    """

    prompt_tokens: int = 128
    new_tokens: int = 32
    rounds: int = 3
    seconds: float = 3.0


def bench_bundles(
    bundles: Sequence[Bundle],
    runtimes: Sequence[str] = (),
    *,
    threads: int | None = None,
    sampling: GenerationSampling | None = None,
) -> list[BenchResult]:
    """Returns a result for each bundle in each engine; the first is the one that ratios are taken to.

    Args:
        bundles: The bundles.
        runtimes: Engines; by default the first one of each bundle's target.
        threads: CPU threads; by default one per physical core.
        sampling: What is measured.

    Raises:
        InputError: a part is simulated, so that its time says nothing.
        EngineError: an engine cannot run a bundle.
    """
    sampling = sampling or GenerationSampling()
    threads = threads or default_threads(read_machine())
    jobs: list[tuple[Bundle, str]] = []
    for bundle in bundles:
        if simulated := [part.name for part in bundle.parts if part.simulated]:
            raise InputError(
                f"{bundle.folder}: its {simulated[0]} holds rounded floats, because no engine has a kernel for "
                f"{bundle.require_part(simulated[0]).precision}; its time would say nothing, score it with `edgeq eval`"
            )
        chosen = runtimes or [default_runtime(artifact_of(bundle, bundle.require_part("decoder")))]
        jobs += [(bundle, each) for each in chosen]
    turns: list[list[Timed]] = [[] for _ in jobs]
    with progress_bar(sampling.rounds * len(jobs), "bench", unit="turns") as advance:
        for _ in range(sampling.rounds):
            for row, (bundle, runtime) in enumerate(jobs):
                turns[row].append(_timed(bundle, runtime, threads, sampling))
                advance(1)
    return [_result(job, turns[row], turns, jobs, sampling) for row, job in enumerate(jobs)]


def _timed(bundle: Bundle, runtime: str, threads: int, sampling: GenerationSampling) -> Timed:
    prompt, new = lengths(bundle, sampling)
    job = TimedJob(str(bundle.folder), runtime, threads, prompt, new, sampling.seconds / sampling.rounds)
    command = [sys.executable, "-m", "edgeq.generation.timed_process", json.dumps(dataclasses.asdict(job))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{bundle.folder}: took over {_TIMEOUT_S} s in {runtime}; ask for fewer tokens") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-_LAST_CHARACTERS:]
        raise EngineError(f"{bundle.folder}: {runtime} cannot run it here (exit code {done.returncode}): ...{said}")
    line = done.stdout.strip().splitlines()[-1]
    return parse_json(line.encode(), Timed, source="the timed process", kind="its times", error=EngineError)


def lengths(bundle: Bundle, sampling: GenerationSampling) -> tuple[int, int]:
    """Returns the tokens of the prompt and those after it, both within the model's context.

    Raises:
        InputError: fewer than 2 tokens are to follow, or the text alone is longer than the context.
    """
    context = bundle.memory.context or sampling.prompt_tokens + sampling.new_tokens
    if not 2 <= sampling.new_tokens < context:
        raise InputError(
            f"`new_tokens` {sampling.new_tokens}: wanted 2 to {context - 1:,}, the context of {bundle.name} being "
            f"{context:,} tokens"
        )
    return min(sampling.prompt_tokens, context - sampling.new_tokens), sampling.new_tokens


def _result(
    job: tuple[Bundle, str],
    own: Sequence[Timed],
    turns: Sequence[Sequence[Timed]],
    jobs: Sequence[tuple[Bundle, str]],
    sampling: GenerationSampling,
) -> BenchResult:
    bundle, runtime = job
    samples = [each for turn in own for each in turn.steps_ns]
    latency = summarize(samples)
    prefill = summarize([each for turn in own for each in turn.prefill_ns])
    images = [each for turn in own for each in turn.images_ns]
    reasons = drift_reasons(latency.drift)
    rounds = [turn.steps_ns for turn in own]
    fp32 = next(
        (
            row
            for row, (other, engine) in enumerate(jobs)
            if precision_of(other) == "fp32" and (other.source_digest, engine) == (bundle.source_digest, runtime)
        ),
        None,
    )
    prompt, new = lengths(bundle, sampling)
    return BenchResult(
        artifact=bundle.folder.resolve().name,
        digest=sha256_file(bundle.folder / MANIFEST_NAME),
        source_digest=bundle.source_digest,
        target=bundle.target,
        runtime=runtime,
        precision=precision_of(bundle),
        size_bytes=sum(part.size_bytes for part in bundle.parts),
        latency_ms=LatencyStatistics(
            p50=latency.p50, p90=latency.p90, p99=latency.p99, mean=latency.mean, min=latency.min, max=latency.max,
            mad=latency.mad,
        ),
        throughput_per_s=latency.throughput_per_s,
        ratio_to_first=interleaved_ratio(rounds, [turn.steps_ns for turn in turns[0]]),
        ratio_to_fp32=None if fp32 is None else interleaved_ratio(rounds, [turn.steps_ns for turn in turns[fp32]]),
        runs=latency.runs,
        drift=latency.drift,
        stable=not reasons,
        unstable_reasons=tuple(reasons),
        peak_rss_bytes=max(turn.peak_bytes for turn in own),
        baseline_rss_bytes=max(turn.baseline_bytes for turn in own),
        generation=GenerationSpeed(
            prompt_tokens=prompt,
            new_tokens=new,
            prefill_ms=prefill.p50,
            images_ms=statistics.median(images) / 1e6 if images else None,
            tokens_per_s=latency.throughput_per_s,
            part_bytes=_medians([turn.part_bytes for turn in own]),
        ),
        environment=parse_environment(own[0].environment, source=bundle.folder, error=EngineError),
        round_runs=tuple(map(len, rounds)),
        samples_ns=tuple(samples),
    )  # fmt: skip


def _medians(turns: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {part: int(statistics.median(turn[part] for turn in turns)) for part in turns[0]}
