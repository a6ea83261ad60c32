"""A Jetson's power mode, which bounds its clocks: `nvpmodel -q`."""

from __future__ import annotations

from pathlib import Path

from edgeq.sensors.base import Sensor, ask

_HEAD = "Power Mode:"


def read(root: Path) -> str | None:
    """Returns the mode's name (`MAXN`, `15W`, ...)."""
    return parse(ask(root, "nvpmodel", "-q"))


def parse(answer: str | None) -> str | None:
    """Returns the name in what `nvpmodel -q` printed."""
    names = [line.partition(_HEAD)[2].strip() for line in (answer or "").splitlines() if _HEAD in line]
    return names[0] if names and names[0] else None


SENSOR = Sensor(read)
