"""A time series of a machine's sensors, taken beside a measurement by a process that does nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Generic, TypeVar

from edgeq.sensors import SENSORS, find_troubles, ina3221, rapl
from edgeq.sensors.nvidia_gpu import open_gpu_energy

INTERVAL_S = 1.0
# Energy is the integral of power: rails are read more often than what changes with heat.
POWER_INTERVAL_S = 0.1

_MAX_ENTRIES = 256
_MAX_POWERS = 1 << 15
_NS_PER_S = 1e9

Entry = TypeVar("Entry")


class Sampler:
    """Reads all sensors once a second, and power rails ten times a second, in a thread of its own.

    Args:
        root: Folder that holds `sys`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: _Series[dict[str, Any]] = _Series(_MAX_ENTRIES)
        self._powers: _Series[tuple[int, int, float]] = _Series(_MAX_POWERS)
        rails = ina3221.read(root)
        self._total_of = None if rails is None else rails["total_of"]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._begun_ns, self._begun_cpu_ns = time.monotonic_ns(), time.process_time_ns()
        self._entries.add(self._read_all())
        self._thread.start()

    def stop(self) -> dict[str, Any]:
        """Returns what was read, as JSON values, after a last reading.

        `entries` is a list of objects with `t_s`, seconds since the first one by the monotonic clock, and the brief of
        each kind that the machine has; `power` a list of `[begin_ns, end_ns, watts]` of the rails that feed all of it,
        with the monotonic times between which they were read; `troubles` and `gpu_troubles` what throttled in between;
        `cpu_share` what the reading cost, as a share of one CPU. Where a measurement takes long, every second entry is
        dropped, again and again.
        """
        self._stopping.set()
        self._thread.join()
        entries = [*self._entries.kept, self._read_all()]
        elapsed_ns = time.monotonic_ns() - self._begun_ns
        return {
            "entries": entries,
            "power": [list(power) for power in self._powers.kept],
            "troubles": find_troubles(entries, on_gpu=False),
            "gpu_troubles": find_troubles(entries, on_gpu=True),
            "cpu_share": (time.process_time_ns() - self._begun_cpu_ns) / max(1, elapsed_ns),
        }

    def _run(self) -> None:
        interval_s = POWER_INTERVAL_S if self._total_of else INTERVAL_S
        ticks_per_entry = max(1, round(INTERVAL_S / interval_s))
        began = time.monotonic()
        tick, entries = 1, 0
        while not self._stopping.wait(max(0.0, began + tick * interval_s - time.monotonic())):
            if tick // ticks_per_entry > entries:
                self._entries.add(self._read_all())
                entries = tick // ticks_per_entry
            else:
                self._read_rails()
            # Ticks that a slow sensor took are skipped, not made up for.
            tick = max(tick, int((time.monotonic() - began) / interval_s)) + 1

    def _read_all(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"t_s": round((time.monotonic_ns() - self._begun_ns) / _NS_PER_S, 3)}
        for kind, sensor in SENSORS.items():
            if sensor.brief is None:
                continue
            reading = self._read_rails() if kind == "ina3221" else sensor.read(self._root)
            if reading is not None:
                entry[kind] = sensor.brief(reading)
        return entry

    def _read_rails(self) -> dict[str, Any] | None:
        begin_ns = time.monotonic_ns()
        rails = ina3221.read(self._root)
        # A rail that could not be read once would be missing in the sum.
        if rails is not None and rails["total_of"] == self._total_of:
            self._powers.add((begin_ns, time.monotonic_ns(), rails["total_watts"]))
        return rails


class _Series(Generic[Entry]):
    """Entries in the order of time, never more than `limit`: beyond it only every second, fourth, ... is kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._stride = 1
        self._count = 0
        self.kept: list[Entry] = []

    def add(self, entry: Entry) -> None:
        if self._count % self._stride == 0:
            self.kept.append(entry)
            if len(self.kept) >= self._limit:
                self.kept = self.kept[::2]
                self._stride *= 2
        self._count += 1


def measure_power(root: Path, seconds: float) -> dict[str, Any]:
    """Returns how the machine tells its power, and what it takes at the moment.

    `kind` is `rails`, `rapl` or null, `source` names what is measured, `watts` is the mean over `seconds`, or null.
    Rails go first: they feed the whole board, RAPL counts the CPU and its memory. `gpu_source` and `gpu_watts` are the
    same of a discrete GPU. Machines without any of them answer at once.
    """
    rails = ina3221.read(root)
    if rails is not None:
        deadline = time.monotonic() + seconds
        powers = []
        while time.monotonic() < deadline:
            reading = ina3221.read(root)
            if reading is not None and reading["total_of"] == rails["total_of"]:
                powers.append(reading["total_watts"])
            time.sleep(POWER_INTERVAL_S)
        mean = sum(powers) / len(powers) if powers else None
        return {"kind": "rails", "source": f"INA3221 {' + '.join(rails['total_of'])}", "watts": mean}
    before, gpu = rapl.read(root), open_gpu_energy(root)
    if before is None and gpu is None:
        return {"kind": None, "source": None, "watts": None}
    gpu_before_j = None if gpu is None else gpu.read_j()
    began_ns = time.monotonic_ns()
    time.sleep(seconds)
    elapsed_s = (time.monotonic_ns() - began_ns) / _NS_PER_S
    found: dict[str, Any] = {"kind": None, "source": None, "watts": None}
    if before is not None:
        watts = _mean_watts(rapl.joules(before, rapl.read(root)), elapsed_s if seconds > 0 else 0.0)
        found = {"kind": "rapl", "source": f"RAPL {' + '.join(before)}", "watts": watts}
    if gpu is not None:
        gpu_after_j = gpu.read_j()
        counted = None if gpu_before_j is None or gpu_after_j is None else gpu_after_j - gpu_before_j
        found |= {"gpu_source": gpu.source, "gpu_watts": _mean_watts(counted, elapsed_s if seconds > 0 else 0.0)}
    return found


def _mean_watts(energy_j: float | None, seconds: float) -> float | None:
    return energy_j / seconds if energy_j is not None and seconds > 0 else None
