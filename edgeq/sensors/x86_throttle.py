"""How often an x86 CPU throttled against heat: counters of the kernel's therm_throt, which only rise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.sensors.base import Sensor, listed, read_int, rises


def read(root: Path) -> dict[str, int] | None:
    """Returns `core` and `package` -> events since boot, over all CPUs."""
    totals: dict[str, int] = {}
    for folder in listed(root, "sys/devices/system/cpu/cpu*/thermal_throttle"):
        for name in ("core", "package"):
            if (count := read_int(folder / f"{name}_throttle_count")) is not None:
                totals[name] = totals.get(name, 0) + count
    return totals or None


def _troubles(briefs: Sequence[dict[str, int]]) -> list[str]:
    return [f"throttled against heat: {name} events {count}" for name, count in rises(briefs).items()]


SENSOR = Sensor(read, lambda reading: reading, _troubles)
