"""Cooling devices: what the kernel does against heat (ABI/testing/sysfs-class-thermal)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeq.sensors.base import Sensor, listed, read_int, read_text, unique

# Those that slow a processor down. Fans do not, and a laptop's `TCC Offset` is a setting that is never zero.
_SLOWS = re.compile(r"Processor|(thermal-)?(cpufreq|cpuidle|devfreq)|intel_powerclamp|.*throttle|.*gpu", re.IGNORECASE)


def read(root: Path) -> dict[str, dict[str, int | None]] | None:
    """Returns the device's type -> {`state`, `max_state`}; state 0 is none, `max_state` the most it can do."""
    known = [
        (read_text(device / "type") or device.name, {"state": state, "max_state": read_int(device / "max_state")})
        for device in listed(root, "sys/class/thermal/cooling_device*")
        if (state := read_int(device / "cur_state")) is not None
    ]
    return unique(known) or None


def _brief(reading: dict[str, Any]) -> dict[str, int]:
    return {name: device["state"] for name, device in reading.items()}


def _troubles(briefs: Sequence[dict[str, int]]) -> list[str]:
    highest: dict[str, int] = {}
    for brief in briefs:
        highest |= {name: max(state, highest.get(name, 0)) for name, state in brief.items()}
    slowing = {name: state for name, state in highest.items() if state > 0 and _SLOWS.match(name)}
    return [f"throttled against heat: cooling device {name} at state {state}" for name, state in slowing.items()]


SENSOR = Sensor(read, _brief, _troubles)
