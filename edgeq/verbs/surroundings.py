"""What went on in a machine while artifacts were timed on it: sensors, load, and the energy that each artifact took."""

from __future__ import annotations

import bisect
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from edgeq.errors import EdgeqError
from edgeq.runtimes.child import RunnerProcess

# From fewer readings of the rails than a second holds there is no mean.
_MIN_POWERS = 10
_TIMEOUT_S = 60.0
_NS_PER_S = 1e9

_log = logging.getLogger(__name__)


class Window(NamedTuple):
    """One turn of an artifact.

    Attributes:
        begin_ns: When its first timed run began, by the machine's monotonic clock.
        end_ns: When its last one ended.
        energy_j: What RAPL counted in between, or `None`.
    """

    begin_ns: int
    end_ns: int
    energy_j: float | None


@dataclass
class Observations:
    """What the sensors of a machine said; all of it empty where it has none.

    Attributes:
        before: `sensors` and `load_average` before an engine was loaded.
        power: `kind`, `source` and `watts` at that time: how the machine tells its power, and its idle power.
        series: `entries`, `power`, `cpu_share`, `troubles` and `gpu_troubles` of the time series over the timed runs.
        after: `sensors` and `load_average` after them.
    """

    before: dict[str, Any] = field(default_factory=dict)
    power: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def sensors(self) -> dict[str, Any] | None:
        """Returns `before`, `after`, `series` and `sampler_cpu_share`, or `None` where there is no sensor at all."""
        before = self.before.get("sensors") or {}
        if all(reading is None for reading in before.values()):
            return None
        return {
            "before": before,
            "after": self.after.get("sensors"),
            "series": self.series.get("entries") or [],
            "sampler_cpu_share": self.series.get("cpu_share"),
        }

    def load_average(self) -> dict[str, Any]:
        """Returns `before` and `after`: each the system's three, or null."""
        return {"before": self.before.get("load_average"), "after": self.after.get("load_average")}

    def troubles(self, *, gpu: bool) -> list[str]:
        """Returns what throttled during the timed runs, for people.

        Args:
            gpu: Whether what ran was on a GPU.
        """
        names = ("troubles", "gpu_troubles") if gpu else ("troubles",)
        return [str(trouble) for name in names for trouble in self.series.get(name) or []]

    def governors(self) -> list[str]:
        """Returns the names of the CPU's governors."""
        policies = ((self.before.get("sensors") or {}).get("cpu_clock") or {}).values()
        return sorted({str(policy["governor"]) for policy in policies if policy.get("governor")})

    def energy(self, windows: Sequence[Window], images: int) -> dict[str, Any] | None:
        """Returns the energy of an artifact's own turns, or `None` where the machine does not tell it.

        `j_per_image` is all of it, idle included; `idle_share` the part that the idle machine would have taken in that
        time (null where that was not measured), `source` what was measured, `window_s` the length of the turns,
        `watts` and `idle_watts` the mean powers. From rails it is their mean over all readings inside the turns, times
        their length: a reading between two turns belongs to neither.

        Args:
            windows: The artifact's turns.
            images: How many images it took in them.
        """
        window_s = sum(window.end_ns - window.begin_ns for window in windows) / _NS_PER_S
        joules = self._rails_j(windows, window_s) if self.power.get("kind") == "rails" else _counted_j(windows)
        if self.power.get("kind") is None or not joules or images < 1 or window_s <= 0:
            return None
        idle_watts = self.power.get("watts")
        return {
            "j_per_image": joules / images,
            "idle_share": None if idle_watts is None else idle_watts * window_s / joules,
            "source": self.power["source"],
            "window_s": window_s,
            "watts": joules / window_s,
            "idle_watts": idle_watts,
        }

    def _rails_j(self, windows: Sequence[Window], window_s: float) -> float | None:
        readings = self.series.get("power") or []
        begins = [begin_ns for begin_ns, _, _ in readings]
        inside = [
            watts
            for window in windows
            for _, end_ns, watts in readings[
                bisect.bisect_left(begins, window.begin_ns) : bisect.bisect_left(begins, window.end_ns)
            ]
            if end_ns <= window.end_ns
        ]
        return window_s * sum(inside) / len(inside) if len(inside) >= _MIN_POWERS else None


def _counted_j(windows: Sequence[Window]) -> float | None:
    counted = [window.energy_j for window in windows if window.energy_j is not None]
    return sum(counted) if len(counted) == len(windows) else None


class Observer:
    """The process that watches. A context manager: the process ends with it.

    A watcher that fails costs the sensors, not the benchmark.

    Args:
        runner: Argument list that starts `edgeq.runtimes.runner`.
        idle_s: Seconds over which the idle power is measured, where the machine tells its power.

    Attributes:
        observations: What it has seen so far.
    """

    def __init__(self, runner: Sequence[str], idle_s: float) -> None:
        self.observations = Observations()
        self._process = RunnerProcess("sensors", runner)
        self._works = True
        self._idle_s = idle_s

    def __enter__(self) -> Observer:
        try:
            self.observations.before = self._ask("sense")
            self.observations.power = self._ask("power", seconds=self._idle_s)
        except BaseException:
            self._process.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.close()

    @contextlib.contextmanager
    def watching(self, cpus: Sequence[int]) -> Iterator[None]:
        """Watches while the block runs.

        Args:
            cpus: CPUs that the watcher leaves to the measurement.
        """
        self._ask("watch", leave_cpus=list(cpus))
        yield
        self.observations.series = self._ask("unwatch")
        self.observations.after = self._ask("sense")

    def _ask(self, command: str, **fields: Any) -> dict[str, Any]:
        if not self._works:
            return {}
        try:
            return self._process.ask(_TIMEOUT_S + self._idle_s, command, **fields)
        except EdgeqError as error:
            _log.warning("no sensors from here on: %s", error)
            self._works = False
            return {}
