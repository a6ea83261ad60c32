"""Energy of an x86 CPU: counters of RAPL in the kernel's powercap (power/powercap/powercap.rst), in microjoules.

Only root may read them since CVE-2020-8694.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, listed, read_int, read_text, unique

_ZONES = "sys/class/powercap/intel-rapl:*"
_MEMORY = "dram"


def read(root: Path) -> dict[str, Any] | None:
    """Returns domain -> {`energy_uj`, `max_energy_range_uj`}: the packages, and memory, which is no part of them.

    Cores and graphics are parts of a package, and the platform (`psys`) holds it; they would be counted twice.
    """
    return unique(_zones(root)) or None


def _zones(root: Path) -> list[tuple[str, dict[str, int]]]:
    found = []
    for folder in listed(root, _ZONES):
        name = read_text(folder / "name") or ""
        if not (name.startswith("package") or name == _MEMORY):
            continue
        energy, wrap = read_int(folder / "energy_uj"), read_int(folder / "max_energy_range_uj")
        if energy is not None and wrap is not None and energy >= 0 and wrap > 0:
            found.append((name, {"energy_uj": energy, "max_energy_range_uj": wrap}))
    return found


def is_locked(root: Path) -> bool:
    """Returns whether there are counters that this process may not read."""
    zones = [zone for zone in listed(root, _ZONES) if (zone / "energy_uj").exists()]
    return bool(zones) and read(root) is None


def joules(before: dict[str, Any] | None, after: dict[str, Any] | None) -> float | None:
    """Returns the energy between two readings; a counter begins again at zero beyond its `max_energy_range_uj`.

    Returns `None` where a domain is missing in one of them. Between the two a counter may begin again once: at 100 W
    that takes more than ten minutes.
    """
    if not before or not after or before.keys() != after.keys():
        return None
    microjoules = 0
    for name, first in before.items():
        difference = after[name]["energy_uj"] - first["energy_uj"]
        microjoules += difference if difference >= 0 else difference + first["max_energy_range_uj"]
    return microjoules / 1e6 if microjoules >= 0 else None


SENSOR = Sensor(read)
