"""CPU clocks and their governor: Linux's cpufreq policies (kernel, admin-guide/pm/cpufreq), in MHz."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, listed, parse_int, present, read_int, read_text

_POLICIES = "sys/devices/system/cpu/cpufreq/policy*"
# What the governor asked for, and what the hardware says, where only that is there.
_CURRENT = ("scaling_cur_freq", "cpuinfo_cur_freq")


def read(root: Path) -> dict[str, Any] | None:
    """Returns policy -> {`mhz`, `min_mhz`, `max_mhz`, `hardware_max_mhz`, `governor`, `cpus`}, each or null."""
    policies = {folder.name: _read_policy(folder) for folder in listed(root, _POLICIES)}
    known = {name: policy for name, policy in policies.items() if policy["mhz"] is not None or policy["governor"]}
    return known or None


def _read_policy(folder: Path) -> dict[str, Any]:
    return {
        "mhz": _current_mhz(folder),
        "min_mhz": _mhz(folder / "scaling_min_freq"),
        "max_mhz": _mhz(folder / "scaling_max_freq"),
        "hardware_max_mhz": _mhz(folder / "cpuinfo_max_freq"),
        "governor": read_text(folder / "scaling_governor"),
        "cpus": _cpus(folder),
    }


def _brief(reading: dict[str, Any]) -> dict[str, Any]:
    return present({name: policy["mhz"] for name, policy in reading.items()})


SENSOR = Sensor(read, _brief)


class CpuClock:
    """The clock of the fastest of some CPUs, asked for again and again.

    The fastest, because work goes there and idle CPUs slow down beside it.

    Args:
        root: Folder that holds `sys`.
        cpus: The CPUs in question; `None` is all.
    """

    def __init__(self, root: Path, cpus: Collection[int] | None = None) -> None:
        self._policies = [
            folder
            for folder in listed(root, _POLICIES)
            if cpus is None or not (served := _cpus(folder)) or set(served) & set(cpus)
        ]

    def read_mhz(self) -> float | None:
        """Returns the clock in MHz, or `None` if the system does not report it."""
        known = [mhz for folder in self._policies if (mhz := _current_mhz(folder)) is not None]
        return max(known, default=None)


def _current_mhz(folder: Path) -> float | None:
    return next((mhz for name in _CURRENT if (mhz := _mhz(folder / name)) is not None), None)


def _mhz(path: Path) -> float | None:
    khz = read_int(path)
    return khz / 1000 if khz is not None and khz > 0 else None


def _cpus(folder: Path) -> list[int]:
    numbers = map(parse_int, (read_text(folder / "affected_cpus") or "").split())
    return [number for number in numbers if number is not None]
