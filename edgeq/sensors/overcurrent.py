"""How often a Jetson was slowed down because it drew too much current: the counters `oc*_event_cnt` of its hwmon."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.sensors.base import Sensor, listed, read_int, rises


def read(root: Path) -> dict[str, int] | None:
    """Returns `oc1`, `oc2`, ... -> events since boot."""
    counters = listed(root, "sys/class/hwmon/hwmon*/oc*_event_cnt")
    known = {path.name.removesuffix("_event_cnt"): read_int(path) for path in counters}
    return {name: count for name, count in known.items() if count is not None} or None


def _troubles(briefs: Sequence[dict[str, int]]) -> list[str]:
    return [f"slowed down for over-current: {name} events {count}" for name, count in rises(briefs).items()]


SENSOR = Sensor(read, lambda reading: reading, _troubles)
