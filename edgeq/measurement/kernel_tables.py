"""Tables of kernel costs: measured on this machine and kept in the user's cache folder, or shipped with edgeq."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterable, Sequence

import msgspec

from edgeq.boundary import convert
from edgeq.errors import EngineError, InputError, MismatchError
from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.table import KernelCost, KernelTable, shipped_table
from edgeq.machine import Machine, default_threads, read_machine
from edgeq.measurement.kernel_timing import HERE, Engine, TimerPlace, time_kernels
from edgeq.progress import progress_bar
from edgeq.results.environment import Environment
from edgeq.resume import JobLog
from edgeq.runtimes import get_runtime, is_installed

TIMED_RUNTIMES = ("openvino", "onnxruntime")
"""Runtimes whose kernels edgeq times."""

_METHOD = 1
"""Counts the ways in which kernels were timed: figures of another one are not comparable."""

_BATCH = 24
"""Kernels that are timed together, and kept: what an interruption loses."""

_BF16 = frozenset({"avx512_bf16", "amx_bf16"})

_log = logging.getLogger(__name__)


class _Row(msgspec.Struct):
    kernel: str
    cost: KernelCost


def costs_here(
    runtime: str, kernels: Iterable[Kernel], *, threads: int | None = None, measure: bool = True
) -> KernelTable | None:
    """Returns a table for a graph that is to run on this machine; `None` if there is none at all.

    Kernels that the user's cache folder does not hold for this CPU, engine version and number of threads are timed
    first. Where that is not possible the shipped table serves, as a whole, and a warning says so and why.

    Args:
        runtime: One of `TIMED_RUNTIMES`.
        kernels: The kernels of the graph.
        threads: CPU threads of the engine; by default one per physical core.
        measure: Whether kernels may be timed; otherwise the shipped table serves.
    """
    machine = read_machine()
    wanted = list(dict.fromkeys(kernels))
    if not measure:
        return shipped(runtime, machine)
    if not is_installed(runtime):
        return _instead(runtime, machine, f"{runtime} is not installed here, so its kernels cannot be timed")
    if machine.emulated:
        return _instead(runtime, machine, "this CPU is emulated, so times here would be those of another one")
    try:
        return measured(runtime, wanted, machine, threads or default_threads(machine))
    except (EngineError, InputError, MismatchError) as error:
        return _instead(runtime, machine, str(error))


def measured(
    runtime: str,
    kernels: Sequence[Kernel],
    machine: Machine | Environment,
    threads: int,
    version: str | None = None,
    place: TimerPlace = HERE,
) -> KernelTable:
    """Returns the table of a machine, after timing those of some kernels that it lacks.

    Args:
        runtime: One of `TIMED_RUNTIMES`.
        kernels: The kernels.
        machine: The machine that times them.
        threads: CPU threads of the engine.
        version: Of the engine there; by default that of this machine's.
        place: How that machine is reached; by default it is this one.

    Raises:
        EngineError: the engine refuses a kernel, or the machine is too busy.
        InputError: the cache folder cannot be written.
        MismatchError: the cached file belongs to another machine.
    """
    table, log = _cached(runtime, machine, threads, version)
    missing = [kernel for kernel in kernels if kernel not in table.rows]
    if not missing:
        return table
    rows = dict(table.rows)
    engine = timed_engine(runtime, machine, threads)
    with progress_bar(len(missing), f"timing kernels in {runtime}", unit="kernels") as advance:
        for first in range(0, len(missing), _BATCH):
            found = time_kernels(engine, missing[first : first + _BATCH], advance, place)
            for kernel, cost in found.items():
                log.add({"kernel": str(kernel), "cost": dataclasses.asdict(cost)})
            rows |= found
    return dataclasses.replace(table, rows=rows)


def timed_engine(runtime: str, machine: Machine | Environment, threads: int) -> Engine:
    """Returns a runtime of a machine as it is timed: OpenVINO in BF16 too, where the CPU has it."""
    return Engine(runtime, threads, has_bf16=runtime == "openvino" and bool(_BF16.intersection(machine.cpu_features)))


def known_tables(machine: Machine) -> list[KernelTable]:
    """Returns what edgeq knows of kernels here: the measured tables of each runtime, or else the shipped one."""
    found = []
    for runtime in TIMED_RUNTIMES:
        counts = range(1, machine.usable_cpus + 1) if is_installed(runtime) else ()
        tables = [table for threads in counts if (table := _cached(runtime, machine, threads)[0]).rows]
        instead = None if tables else shipped(runtime, machine)
        found += tables if instead is None else [instead]
    return found


def shipped(runtime: str, machine: Machine) -> KernelTable | None:
    """Returns the table that comes with edgeq for a runtime and the CPU that is nearest to this machine's."""
    return shipped_table(runtime, machine.cpu_features)


def _instead(runtime: str, machine: Machine, why: str) -> KernelTable | None:
    table = shipped(runtime, machine)
    if table is None:
        _log.warning("%s; edgeq ships no table for this CPU: the target's rules alone decide", why)
    else:
        _log.warning("%s; kernel costs are %s", why, table.source)
    return table


def _cached(
    runtime: str, machine: Machine | Environment, threads: int, version: str | None = None
) -> tuple[KernelTable, JobLog]:
    """Returns what was measured on a machine before, and where to add to it."""
    version = version or importlib.metadata.version(get_runtime(runtime).package)
    job = {
        "runtime": runtime,
        "version": version,
        "cpu": machine.cpu,
        "cpu_features": list(machine.cpu_features),
        "threads": threads,
        "method": _METHOD,
    }
    log = JobLog.in_cache("kernels", job)
    rows = {}
    for part in log.parts():
        row = convert(part, _Row, source=str(log.path), kind="a kernel's cost")
        rows[Kernel.parse(row.kernel)] = row.cost
    table = KernelTable(runtime, version, machine.cpu or "", machine.cpu_features, threads, "measured", rows)
    return table, log
