"""What went on in a machine while artifacts were timed on it: sensors, load, and the energy that each artifact took."""

from __future__ import annotations

import bisect
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import msgspec

from edgeq.boundary import convert
from edgeq.errors import EdgeqError, InputError
from edgeq.results.measurement import Energy, LoadAverage, SensorReadings
from edgeq.runtimes.answers import Begun, Power, Sensed, Series
from edgeq.runtimes.child import RunnerProcess

# From fewer readings of the rails than a second holds there is no mean.
_MIN_POWERS = 10
_TIMEOUT_S = 60.0
_NS_PER_S = 1e9

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Window(NamedTuple):
    """One turn of an artifact.

    Attributes:
        begin_ns: When its first timed run began, by the machine's monotonic clock.
        end_ns: When its last one ended.
        energy_j: What RAPL counted in between, or `None`.
        gpu_j: What the GPU that computed it counted, or `None`.
    """

    begin_ns: int
    end_ns: int
    energy_j: float | None
    gpu_j: float | None = None


class _Policy(msgspec.Struct):
    governor: str | None = None


@dataclass
class Observations:
    """What the sensors of a machine said; all of it empty where it has none.

    Attributes:
        before: Before an engine was loaded.
        power: The machine's power at that time.
        series: The time series over the timed runs.
        after: After them.
    """

    before: Sensed = field(default_factory=Sensed)
    power: Power = field(default_factory=Power)
    series: Series = field(default_factory=Series)
    after: Sensed = field(default_factory=Sensed)

    def sensors(self) -> SensorReadings | None:
        """Returns what the sensors said, or `None` where there is no sensor at all."""
        before = self.before.sensors or {}
        if all(reading is None for reading in before.values()):
            return None
        return SensorReadings(
            before=before,
            after=self.after.sensors,
            series=tuple(self.series.entries),
            sampler_cpu_share=self.series.cpu_share,
        )

    def load_average(self) -> LoadAverage:
        """Returns the load averages before and after."""
        return LoadAverage(before=self.before.load_average, after=self.after.load_average)

    def troubles(self, *, gpu: bool) -> list[str]:
        """Returns what throttled during the timed runs, for people.

        Args:
            gpu: Whether what ran was on a GPU.
        """
        return [*self.series.troubles, *(self.series.gpu_troubles if gpu else ())]

    def governors(self) -> list[str]:
        """Returns the names of the CPU's governors."""
        clocks = (self.before.sensors or {}).get("cpu_clock") or {}
        try:
            policies = convert(clocks, dict[str, _Policy], source="sensors", kind="CPU clocks by policy")
        except InputError:
            return []
        return sorted({policy.governor for policy in policies.values() if policy.governor})

    def energy(self, windows: Sequence[Window], images: int) -> Energy | None:
        """Returns the energy of an artifact's own turns, or `None` where the machine does not tell it.

        From rails it is their mean over all readings inside the turns, times their length: a reading between two turns
        belongs to neither. Of an engine on a discrete GPU it is that of the card.

        Args:
            windows: The artifact's turns.
            images: How many images it took in them.
        """
        window_s = sum(window.end_ns - window.begin_ns for window in windows) / _NS_PER_S
        kind, source, idle_watts = self.power.kind, self.power.source, self.power.watts
        if kind == "rails":
            joules = self._rails_j(windows, window_s)
        elif self.power.gpu_source is not None and (gpu_j := _counted([each.gpu_j for each in windows])) is not None:
            joules, source, idle_watts = gpu_j, self.power.gpu_source, self.power.gpu_watts
        else:
            joules = None if kind is None else _counted([window.energy_j for window in windows])
        if not joules or images < 1 or window_s <= 0:
            return None
        return Energy(
            j_per_image=joules / images,
            idle_share=None if idle_watts is None else idle_watts * window_s / joules,
            source=source or "",
            window_s=window_s,
            watts=joules / window_s,
            idle_watts=idle_watts,
        )

    def _rails_j(self, windows: Sequence[Window], window_s: float) -> float | None:
        readings = self.series.power
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


def _counted(windows_j: Sequence[float | None]) -> float | None:
    counted = [each for each in windows_j if each is not None]
    return sum(counted) if len(counted) == len(windows_j) else None


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
            self.observations.before = self._ask(Sensed, "sense")
            self.observations.power = self._ask(Power, "power", seconds=self._idle_s)
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
        self._ask(Begun, "watch", leave_cpus=list(cpus))
        yield
        self.observations.series = self._ask(Series, "unwatch")
        self.observations.after = self._ask(Sensed, "sense")

    def _ask(self, wanted: type[T], command: str, **fields: Any) -> T:
        """Returns an answer, or an empty one once the watcher has failed."""
        if self._works:
            try:
                return self._process.ask_for(wanted, _TIMEOUT_S + self._idle_s, command, **fields)
            except EdgeqError as error:
                _log.warning("no sensors from here on: %s", error)
                self._works = False
        return wanted()
