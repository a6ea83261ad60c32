"""Where the files of a search are timed: on this machine, or on devices (`edgeq.tuning.timing_devices`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from edgeq.exporting.artifact import Artifact
from edgeq.machine import Machine, read_machine
from edgeq.measurement.benchmark import bench_jobs
from edgeq.measurement.timed_file import Job, Sampling
from edgeq.results.environment import Environment
from edgeq.results.measurement import BenchResult
from edgeq.runtimes import SIMULATED
from edgeq.runtimes.answers import Power
from edgeq.runtimes.child import RunnerProcess
from edgeq.sensors import rapl
from edgeq.targets import Target
from edgeq.tuning.machine_lock import machine_alone
from edgeq.tuning.staged import compute_precision

ASK_S = 60.0
"""How long a machine may take to say what it is."""

Timed = tuple[int, list[BenchResult]]
"""Position of a batch, and the result of each of its files."""


@dataclass(frozen=True)
class Surveyed:
    """What a site is. Times of sites with the same machine and engine are those of one another.

    Attributes:
        machine: The machine, in words.
        engine: The engine with its version and threads, in words.
    """

    machine: str
    engine: str


class TimingSite(Protocol):
    """A place where files are timed."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def refusal(self) -> str:
        """Why nothing can be measured there; empty if it can."""

    def survey(self, file: Artifact) -> Surveyed:
        """Returns what it is.

        Args:
            file: A file that it is to run.

        Raises:
            EdgeqError: it cannot run it, or cannot be reached.
        """

    def counts_energy(self, file: Artifact) -> str:
        """Returns why it does not count the energy of such a file; empty if it does."""

    def bench(self, batches: Sequence[Sequence[Artifact]], sampling: Sampling) -> Iterator[Timed]:
        """Yields each batch with the results of its files, which take turns, as soon as it is done.

        Raises:
            EdgeqError: a file cannot be run, or nothing is left that runs it.
        """


class ThisMachine:
    """This machine.

    Args:
        target: Whose times are wanted.
        runtime: The engine.
        threads: Its CPU threads; by default one per physical core.
        engine: The same in words.
    """

    name = "this machine"

    def __init__(self, target: Target, runtime: str, threads: int | None, engine: str) -> None:
        self._target = target
        self._runtime = runtime
        self._threads = threads
        self._engine = engine

    @cached_property
    def refusal(self) -> str:
        """Why its times are not those of the target."""
        if runs_here(self._target, self._runtime, read_machine()):
            return ""
        return "a simulation has no latency" if self._runtime in SIMULATED else "it does not run here"

    def survey(self, _file: Artifact) -> Surveyed:
        """Returns its CPU and its engine."""
        machine = read_machine()
        return Surveyed(machine.cpu or machine.architecture, self._engine)

    def counts_energy(self, _file: Artifact) -> str:
        """Returns why it does not count energy; empty if it does."""
        with RunnerProcess("sensors") as process:
            power = process.ask_for(Power, ASK_S, "power", seconds=0.0)
        return no_energy(self.name, power, self._runtime, is_locked=rapl.is_locked(Path("/")))

    def bench(self, batches: Sequence[Sequence[Artifact]], sampling: Sampling) -> Iterator[Timed]:
        """Yields each batch with its results; nobody else computes meanwhile."""
        for index, files in enumerate(batches):
            with machine_alone():
                results = bench_jobs(jobs_of(files, self._runtime), threads=self._threads, sampling=sampling)
            yield index, results


def jobs_of(files: Sequence[Artifact], runtime: str) -> list[Job]:
    """Returns what is run of some files: float layers are computed in what files are scored in."""
    return [Job(file, runtime, compute_precision(runtime)) for file in files]


def runs_here(target: Target, runtime: str, machine: Machine) -> bool:
    """Returns whether times on this machine are those of a target: on a CPU of its architecture, or on its GPU."""
    if runtime in SIMULATED or machine.emulated:
        return False
    return is_of(target, machine.architecture, runtime)


def is_of(target: Target, architecture: str | None, runtime: str) -> bool:
    """Returns whether a machine of an architecture runs the files of a target in a runtime as the target does."""
    if target.rules.isa is not None:
        return architecture in ("x86_64", "AMD64")
    if target.name == "arm":
        return architecture in ("aarch64", "arm64")
    return runtime.startswith("tensorrt")


def in_words(environment: Environment) -> str:
    """Returns a machine as the store names it: its board and its CPU, and what a Jetson's times depend on."""
    further = environment.further
    parts = [environment.board, environment.cpu or environment.architecture, further.get("gpu")]
    mode = further.get("power_mode")
    return ", ".join(str(part) for part in [*parts, mode and f"power mode {mode}"] if part)


def no_energy(name: str, power: Power, runtime: str, *, is_locked: bool = False) -> str:
    """Returns why a machine does not count the energy of an engine, and what would; empty if it does.

    Args:
        name: What people call the machine.
        power: How it tells its power.
        runtime: The engine.
        is_locked: Whether it has a counter that may not be read.
    """
    on_gpu = runtime.startswith("tensorrt")
    if power.kind is not None or (on_gpu and power.gpu_source is not None):
        return ""
    if is_locked:
        return (
            f"root alone may read the RAPL counters of {name}; run: sudo chmod a+r "
            "/sys/class/powercap/intel-rapl:*/energy_uj"
        )
    return (
        f"{name} has no sensor of power that can be read; RAPL of an x86 CPU, the INA3221 of a Jetson, and the counter "
        "of an NVIDIA card for engines on it would do"
    )
