"""Times of the files that a search has left: measured in turns with FP32 on this machine, and kept in the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edgeq.errors import EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.machine import Machine, read_machine
from edgeq.measurement.benchmark import Job, Sampling, bench_jobs
from edgeq.measurement.speed_check import round_ratios
from edgeq.results.tuning import TunedLatency
from edgeq.runtimes import SIMULATED
from edgeq.runtimes.latency import median_interval
from edgeq.targets import Target
from edgeq.tuning.journal import Trial
from edgeq.tuning.machine_lock import machine_alone
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.staged import compute_precision
from edgeq.tuning.store import Timing

SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.2, min_runs=30, min_s=1.0, max_s=3.0, round_runs=2, round_s=0.02, idle_s=0.0
)

_log = logging.getLogger(__name__)


def runs_here(target: Target, runtime: str, machine: Machine) -> bool:
    """Returns whether times on this machine are those of a target: on a CPU of its architecture, or on its GPU."""
    if runtime in SIMULATED or machine.emulated:
        return False
    if target.rules.isa is not None:
        return machine.architecture in ("x86_64", "AMD64")
    if target.name == "arm":
        return machine.architecture in ("aarch64", "arm64")
    return runtime.startswith("tensorrt")


def timed(scoring: Scoring, files: Sequence[tuple[Trial, Artifact]]) -> list[TunedLatency | None]:
    """Returns the time of each file over that of the first, FP32; `None` where nothing can be measured here.

    What the store has of this CPU is not measured again; it keeps what was measured of a steady machine. Float layers
    are computed in what they were scored in.

    Args:
        scoring: Scored them.
        files: The files, each with its trial.
    """
    machine = read_machine()
    if not runs_here(scoring.subject.target, scoring.runtime, machine):
        return [None] * len(files)
    known = [_latency(scoring.journal.timing(trial, _name(machine))) for trial, _ in files]
    missing = [index for index, each in enumerate(known) if each is None]
    if not missing:
        return known
    compute = compute_precision(scoring.runtime)
    wanted = [0, *(index for index in missing if index)]
    jobs = [Job(files[index][1], scoring.runtime, compute) for index in wanted]
    try:
        with machine_alone():
            first, *others = bench_jobs(jobs, threads=scoring.options.threads, sampling=SAMPLING)
    except EngineError as error:
        _log.warning("times were not measured (%s); those of the files are estimates", error)
        return known
    if reasons := sorted({reason for each in (first, *others) for reason in each.unstable_reasons}):
        _log.warning("the machine was not steady while files were timed (%s); run again when it is idle", reasons[0])
    for index, result in zip(wanted, (first, *others), strict=True):
        if known[index] is not None:
            continue
        ratio, low, high = median_interval(round_ratios(result, first))
        timing = Timing(
            median_ms=result.latency_ms.p50 or 0.0,
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            runs=result.runs or 0,
            engine=scoring.journal.facts["engine"],
            machine=_name(machine),
        )
        known[index] = _latency(timing)
        if not reasons:
            scoring.journal.add_timing(files[index][0], timing)
    return known


def _name(machine: Machine) -> str:
    return machine.cpu or machine.architecture


def _latency(timing: Timing | None) -> TunedLatency | None:
    if timing is None or timing.ratio is None:
        return None
    return TunedLatency(
        ratio=timing.ratio,
        low=timing.ratio_low,
        high=timing.ratio_high,
        p50_ms=timing.median_ms,
        obtained="measured",
    )
