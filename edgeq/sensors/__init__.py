"""What a machine reports about itself while it runs: clocks, temperatures, throttling, power. One file per kind.

Everything is read below a root folder, so that a tree of files stands in for a board. It needs the standard library
only: it runs on a device as it runs here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeq.sensors import (
    cooling,
    cpu_clock,
    ina3221,
    jetson_gpu,
    nvidia_gpu,
    overcurrent,
    power_mode,
    rapl,
    raspberry_pi,
    temperature,
    x86_throttle,
)
from edgeq.sensors.base import Sensor, read_text

SENSORS: dict[str, Sensor] = {
    "cpu_clock": cpu_clock.SENSOR,
    "temperature_c": temperature.SENSOR,
    "cooling": cooling.SENSOR,
    "x86_throttle": x86_throttle.SENSOR,
    "raspberry_pi": raspberry_pi.SENSOR,
    "overcurrent": overcurrent.SENSOR,
    "ina3221": ina3221.SENSOR,
    "jetson_gpu": jetson_gpu.SENSOR,
    "power_mode": power_mode.SENSOR,
    "rapl": rapl.SENSOR,
    "nvidia_gpu": nvidia_gpu.SENSOR,
}


def read_sensors(root: Path = Path("/")) -> dict[str, Any]:
    """Returns kind -> reading, as JSON values; `None` for every kind that the machine does not have or tell."""
    return {kind: sensor.read(root) for kind, sensor in SENSORS.items()}


def read_load_average(root: Path = Path("/")) -> list[float] | None:
    """Returns the processes that ran or waited to run, averaged over the last 1, 5 and 15 minutes."""
    fields = (read_text(root / "proc/loadavg") or "").split()[:3]
    try:
        loads = [float(field) for field in fields]
    except ValueError:
        return None
    return loads if len(loads) == 3 and all(0 <= load < 1e6 for load in loads) else None


def find_troubles(entries: list[dict[str, Any]], *, on_gpu: bool) -> list[str]:
    """Returns what throttled in the course of a series, for people.

    Args:
        entries: Briefs by kind, in the order of time; see `edgeq.sensors.sampler`.
        on_gpu: Whether to look at what slows runs on a GPU only, or at the rest.
    """
    found: list[str] = []
    for kind, sensor in SENSORS.items():
        briefs = [entry[kind] for entry in entries if kind in entry]
        if briefs and sensor.on_gpu == on_gpu:
            found += sensor.troubles(briefs)
    return found
