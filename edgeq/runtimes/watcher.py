"""The commands of `edgeq.runtimes.runner` that tell about the machine instead of a model.

A runner that opens no artifact and answers these is the separate process that watches while others measure: on a device
behind ssh it is started, driven and ended in the same way as they are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeq.errors import InputError
from edgeq.runtimes.commands import field
from edgeq.sensors import read_load_average, read_sensors
from edgeq.sensors.sampler import Sampler, measure_power


class Watcher:
    """Reads the sensors of this machine.

    Args:
        root: Folder that holds `proc` and `sys`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sampler: Sampler | None = None

    @property
    def commands(self) -> dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """Name -> what carries it out."""
        return {"sense": self._sense, "power": self._power, "watch": self._watch, "unwatch": self._unwatch}

    def _sense(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        return {"sensors": read_sensors(self._root), "load_average": read_load_average(self._root)}

    def _power(self, command: Mapping[str, Any]) -> dict[str, Any]:
        return measure_power(self._root, field(command, "seconds", float, int))

    def _watch(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if self._sampler is not None:
            raise InputError("the sensors are being watched already; send the command unwatch first")
        _leave(field(command, "leave_cpus", list))
        self._sampler = Sampler(self._root)
        return {}

    def _unwatch(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        if self._sampler is None:
            raise InputError("the sensors are not being watched; send the command watch first")
        sampler, self._sampler = self._sampler, None
        return sampler.stop()


def _leave(cpus: list[int]) -> None:
    """Moves this process to other CPUs, where there are any and the system can."""
    if hasattr(os, "sched_setaffinity") and (others := os.sched_getaffinity(0) - set(cpus)):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, others)
