"""What the files that a search has left take: time in turns with FP32, memory and energy, all kept in the store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.measurement.speed_check import round_ratios
from edgeq.measurement.timed_file import Sampling
from edgeq.progress import progress_bar
from edgeq.results.measurement import BenchResult
from edgeq.results.tuning import TunedLatency
from edgeq.runtimes.latency import median_interval
from edgeq.tuning.journal import Trial, TrialJournal
from edgeq.tuning.machine_lock import waiting_until
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_budget import UNLIMITED, Budget
from edgeq.tuning.store import Timing
from edgeq.tuning.timing_site import Surveyed, ThisMachine, TimingSite

SAMPLING = Sampling(
    warmup_runs=3, warmup_s=0.2, min_runs=30, min_s=1.0, max_s=3.0, round_runs=2, round_s=0.02, idle_s=0.0
)
ENERGY_SAMPLING = dataclasses.replace(SAMPLING, min_s=3.0, max_s=6.0, round_runs=3, round_s=0.2)
"""Sensors of power are read ten times a second, and only what lies within a turn counts."""

BATCH = 4
"""Files that take turns with one FP32. Each is a session of the one connection to a device, of which sshd allows ten by
default (MaxSessions), five of them for the connection itself, its watch, the lock, the sensors and FP32."""

_MEMORY, _ENERGY, _ENERGY_RATIO = "peak_rss_bytes", "j_per_image", "j_over_fp32"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Usage:
    """What a file takes besides time; `None` is not measured.

    Attributes:
        memory_bytes: The most memory that a process held while its engine ran the file, as `edgeq bench` measures it.
        j_per_image: Energy of one image in J.
        j_over_fp32: That over FP32's of the same turns.
    """

    memory_bytes: int | None = None
    j_per_image: float | None = None
    j_over_fp32: float | None = None

    def memory_over(self, reference: Usage) -> float | None:
        """Returns its memory over that of another file, if both are known."""
        known = self.memory_bytes is not None and reference.memory_bytes
        return self.memory_bytes / reference.memory_bytes if known else None  # type: ignore[operator]

    def amount(self, name: str, reference: Usage) -> tuple[float | None, float | None]:
        """Returns `memory` or `energy` over that of another file, and in its unit; `None` is not measured."""
        if name == "memory":
            return self.memory_over(reference), self.memory_bytes
        return self.j_over_fp32, self.j_per_image


UNKNOWN = Usage()


@dataclass(frozen=True)
class Measured:
    """What a file takes.

    Attributes:
        latency: Its time.
        usage: Its memory and energy.
        unsteady: Why the machine was not steady meanwhile; empty if it was. What was measured so is not kept.
    """

    latency: TunedLatency
    usage: Usage = UNKNOWN
    unsteady: str = ""


def this_machine(scoring: Scoring) -> ThisMachine:
    """Returns this machine with the engine that trials are scored in."""
    threads, engine = scoring.options.threads, scoring.journal.facts["engine"]
    return ThisMachine(scoring.subject.target, scoring.runtime, threads, engine)


def require_measurable(scoring: Scoring, site: TimingSite, budget: Budget) -> None:
    """Checks that what a budget limits can be measured, before the long work.

    Args:
        scoring: Scores the files.
        site: Where they are measured.
        budget: The budget.

    Raises:
        InputError: it cannot; the message says what would do.
    """
    if site.refusal and budget.needs_measuring:
        instead = "name a `device`"
        if budget.memory is None and budget.energy is None:
            instead += ", or give a multiple of FP32's time, such as 0.5x, which is estimated"
        raise InputError(
            f"`{budget}`: files of {scoring.subject.target.name} cannot be measured on {site.name} ({site.refusal}); "
            f"{instead}"
        )
    if budget.energy is not None and (reason := site.counts_energy(scoring.float_file)):
        raise InputError(f"`energy` {budget.energy.text}: {reason}; or omit `energy`")


def measured(
    journal: TrialJournal, site: TimingSite, files: Sequence[tuple[Trial, Artifact]], budget: Budget = UNLIMITED
) -> list[Measured | None]:
    """Returns what each file takes, its time over that of the first, FP32; `None` where nothing can be measured.

    What the store has of the same kind of machine with the same engine is not measured again. It keeps memory, and the
    times and energy of a steady machine, as soon as a batch of files is done.

    Args:
        journal: Where it is kept.
        site: Where they are measured.
        files: The files, each with its trial.
        budget: What is wanted of them besides their times.

    Raises:
        DeviceError: no device is left.
        EngineError: a file cannot be run, and the budget needs what was to be measured.
    """
    if site.refusal:
        return [None] * len(files)
    record = MeasurementRecord(journal, site.survey(files[0][1]))
    known = [record.find(trial, budget) for trial, _ in files]
    missing = [index for index, each in enumerate(known) if each is None and index]
    if not missing and known[0] is not None:
        return known
    batches = [missing[begin : begin + BATCH] for begin in range(0, len(missing), BATCH)] or [[]]
    wanted = [[files[index][1] for index in (0, *batch)] for batch in batches]
    sampling = ENERGY_SAMPLING if budget.energy is not None else SAMPLING
    # What a budget needs is measured however late it is.
    patience = waiting_until(math.inf) if budget.needs_measuring else contextlib.nullcontext()
    try:
        with patience, progress_bar(len(batches), f"measuring on {site.name}", unit="batches") as advance:
            for position, results in site.bench(wanted, sampling):
                for index, result in zip((0, *batches[position]), results, strict=True):
                    if known[index] is None:
                        known[index] = record.add(files[index][0], result, results)
                advance(1)
    except EngineError as error:
        if budget.needs_measuring:
            raise
        _log.warning("times were not measured (%s); those of the files are estimates", error)
    return known


class MeasurementRecord:
    """What the store has of the measurements of one kind of machine.

    Args:
        journal: The trials.
        surveyed: The machine with its engine.
    """

    def __init__(self, journal: TrialJournal, surveyed: Surveyed) -> None:
        self._journal = journal
        self._surveyed = surveyed
        self._warned = False

    def find(self, trial: Trial, budget: Budget) -> Measured | None:
        """Returns what is known of a trial; `None` if something is missing that a budget wants."""
        latency = _latency(self._journal.timing(trial, self._surveyed.machine, self._surveyed.engine))
        kept = self._journal.measures(trial)
        memory, energy, ratio = (kept.get(self._named(name)) for name in (_MEMORY, _ENERGY, _ENERGY_RATIO))
        if latency is None or (budget.memory and memory is None) or (budget.energy and energy is None):
            return None
        return Measured(latency, Usage(None if memory is None else int(memory), energy, ratio))

    def add(self, trial: Trial, result: BenchResult, batch: Sequence[BenchResult]) -> Measured:
        """Returns what was measured of a file in a batch behind FP32, and keeps it."""
        reference = batch[0]
        ratio, low, high = median_interval(round_ratios(result, reference))
        joules, others = result.j_per_image, reference.j_per_image
        usage = Usage(result.peak_rss_bytes, joules, None if joules is None or not others else joules / others)
        timing = Timing(
            median_ms=result.latency_ms.p50 or 0.0,
            ratio=ratio,
            ratio_low=low,
            ratio_high=high,
            runs=result.runs or 0,
            engine=self._surveyed.engine,
            machine=self._surveyed.machine,
        )
        kept: dict[str, float | None] = {_MEMORY: usage.memory_bytes}
        reasons = sorted({reason for each in batch for reason in each.unstable_reasons})
        if reasons:
            self._warn(reasons[0])
        else:
            self._journal.add_timing(trial, timing)
            kept |= {_ENERGY: usage.j_per_image, _ENERGY_RATIO: usage.j_over_fp32}
        self._journal.add_measures(
            trial, {self._named(name): float(value) for name, value in kept.items() if value is not None}
        )
        found = _latency(timing)
        assert found is not None  # noqa: S101 - it has a ratio
        return Measured(found, usage, reasons[0] if reasons else "")

    def _named(self, measure: str) -> str:
        return f"{measure} on {self._surveyed.machine} in {self._surveyed.engine}"

    def _warn(self, reason: str) -> None:
        if not self._warned:
            _log.warning("the machine was not steady while files were timed (%s); run again when it is idle", reason)
        self._warned = True


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
