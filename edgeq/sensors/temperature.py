"""Temperatures: the kernel's thermal zones (ABI/testing/sysfs-class-thermal), in degrees Celsius."""

from __future__ import annotations

from pathlib import Path

from edgeq.sensors.base import Sensor, listed, read_int, read_text, unique

# A Jetson's zone that is switched off reads -256 degrees.
_PLAUSIBLE = (-60.0, 200.0)


def read(root: Path) -> dict[str, float] | None:
    """Returns the zone's type -> degrees Celsius."""
    known = [
        (read_text(zone / "type") or zone.name, millidegrees / 1000)
        for zone in listed(root, "sys/class/thermal/thermal_zone*")
        if (millidegrees := read_int(zone / "temp")) is not None
    ]
    low, high = _PLAUSIBLE
    return unique((name, celsius) for name, celsius in known if low <= celsius <= high) or None


SENSOR = Sensor(read, lambda reading: reading)
