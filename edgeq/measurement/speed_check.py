"""Whether a quantized file is faster than its float model in its engine: measured when the file is written.

Each file runs in a fresh process, and they take turns (`edgeq.measurement.benchmark`). Whether INT8 pays depends on the
CPU, the engine's version and the threads, so that no rule can promise it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.quantization_facts import SpeedFacts
from edgeq.machine import Machine
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.latency import median_interval

SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.2, min_runs=30, min_s=0.8, max_s=2.5, round_runs=2, round_s=0.02, idle_s=0.0
)
"""A few seconds for each pair of files, start of the processes included."""

WIDEST = 0.15
"""The widest interval, as a share of its median, that says which of two files is the faster."""

_BF16 = ("avx512_bf16", "amx_bf16")
FP32, BF16, INT8 = "fp32", "fp32 computed in bf16", "int8"


@dataclass(frozen=True)
class _Ratio:
    """Time of one file over another's: median over the rounds, and its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        return self.high < 1

    @property
    def is_vague(self) -> bool:
        return self.low <= 1 <= self.high and self.high - self.low > WIDEST * self.median


def measure_speed(
    quantized: Artifact, fp32: Artifact, runtime: str, machine: Machine, threads: int, sampling: Sampling = SAMPLING
) -> SpeedFacts:
    """Returns how a quantized file's time compares with the float file's, and which of the two to take.

    Where the CPU computes BF16 and the engine can, the float file is timed in BF16 too.

    Args:
        quantized: The file in INT8, or with weights of few bits.
        fp32: The float file of the same model.
        runtime: The engine that both are run in.
        machine: This machine.
        threads: CPU threads of the engine.
        sampling: How long is measured.

    Raises:
        EngineError: the engine refuses a file, or its process died.
    """
    jobs = [Job(fp32, runtime), Job(quantized, runtime)]
    if has_bf16(runtime, machine):
        jobs.append(Job(fp32, runtime, "bf16"))
    reference, timed, *halved = bench_jobs(jobs, threads=threads, sampling=sampling)
    ratio = _ratio(timed, reference)
    recommended = timed.precision if ratio.is_faster else "" if ratio.is_vague else FP32
    bf16 = [_ratio(each, reference) for each in halved]
    rivals = [_ratio(each, timed if ratio.is_faster else reference) for each in halved]
    if any(rival.is_faster for rival in rivals):
        recommended = BF16
    return SpeedFacts(
        runtime=runtime,
        engine=timed.environment.engine,
        cpu=machine.cpu,
        cpu_features=machine.cpu_features,
        threads=threads,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        bf16_ratio=bf16[0].median if bf16 else None,
        rounds=len(timed.round_runs),
        recommended=recommended,
    )


def _ratio(result: BenchResult, reference: BenchResult) -> _Ratio:
    return _Ratio(*median_interval(round_ratios(result, reference)))


def has_bf16(runtime: str, machine: Machine) -> bool:
    """Returns whether a runtime computes float files in BF16 on a machine, at more than the speed of FP32."""
    return runtime == "openvino" and not set(_BF16).isdisjoint(machine.cpu_features)


def round_ratios(result: BenchResult, reference: BenchResult) -> list[float]:
    """Returns a file's median time over a reference's, for each round that both were timed in."""
    rounds = zip(_round_medians(result), _round_medians(reference), strict=True)
    return [taken / other for taken, other in rounds]


def _round_medians(result: BenchResult) -> Sequence[float]:
    ends = [0, *itertools.accumulate(result.round_runs)]
    return [float(np.median(result.samples_ns[begin:end])) for begin, end in itertools.pairwise(ends)]
