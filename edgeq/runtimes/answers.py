"""What a runner answers to its commands (`edgeq.runtimes.runner`), as the host reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from edgeq.boundary import Count, Integer, NotNegative, Positive
from edgeq.results.measurement import ColdStart


class Opened(msgspec.Struct):
    """What a runner answers to `open`."""

    cold_start_ms: ColdStart
    environment: dict[str, Any]


class DeviceTimesNs(msgspec.Struct):
    """Times of runs on a device beside the CPU, in ns."""

    compute: list[Count] = []
    enqueue: list[Count] = []


class Turn(msgspec.Struct):
    """What a runner answers to `run`: the times of one turn; those of the device are empty for engines on the CPU.

    Clocks are those before and after it, of what computes, where the machine tells them.
    """

    samples_ns: Annotated[list[Positive], msgspec.Meta(min_length=1)]
    window_ns: tuple[Count, Count]
    clock_mhz: list[NotNegative] | None = None
    energy_j: NotNegative | None = None
    gpu_j: NotNegative | None = None
    device_ns: DeviceTimesNs = msgspec.field(default_factory=DeviceTimesNs)


class Memory(msgspec.Struct):
    """What a runner answers to `report`."""

    peak_rss_bytes: Count | None
    baseline_rss_bytes: Count | None


class Sensed(msgspec.Struct):
    """What a watcher answers to `sense`: readings of the sensors by their kind, and the load average."""

    sensors: dict[str, Any] | None = None
    load_average: tuple[float, ...] | None = None


class Power(msgspec.Struct):
    """What it answers to `power`: how the machine tells its power, and its idle power in W; the same of its GPU."""

    kind: Literal["rails", "rapl"] | None = None
    source: str | None = None
    watts: float | None = None
    gpu_source: str | None = None
    gpu_watts: float | None = None


class Series(msgspec.Struct):
    """What it answers to `unwatch`: readings over the timed runs, and what went wrong in them.

    `power` holds begin and end of each reading of the rails in ns, and the power in W.
    """

    entries: list[dict[str, Any]] = []
    power: list[tuple[Integer, Integer, float]] = []
    cpu_share: float | None = None
    troubles: list[str] = []
    gpu_troubles: list[str] = []


class Begun(msgspec.Struct):
    """What it answers to `watch`."""
