"""What devices of a benchmark have measured, kept on the host until all of them are done.

A benchmark is measured in turns, so a device is done as a whole or not at all. Where one of several fails, or the host
is stopped, the same command asks only those that are not done.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from edgeq.errors import InputError
from edgeq.resume import JobLog

_log = logging.getLogger(__name__)


class KeptResults:
    """The results of one device.

    Args:
        device: Its name.
        key: All that they depend on.
    """

    def __init__(self, device: str, key: dict[str, Any]) -> None:
        self._device = device
        self._log = JobLog.in_cache("bench", key)

    def read(self) -> list[dict[str, Any]] | None:
        """Returns what an earlier run has measured, and says so; `None` if there is nothing to take."""
        parts = self._log.parts()
        if not parts:
            return None
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(parts[-1]["measured_at_s"]))
        _log.warning("%s: reusing what the interrupted run measured at %s", self._device, when)
        return list(parts[-1]["results"])

    def write(self, results: list[dict[str, Any]]) -> None:
        """Keeps results; without them a next run measures again, so a full disk is no reason to fail."""
        try:
            self._log.add({"measured_at_s": time.time(), "results": results})
        except InputError as error:
            _log.warning("%s: its results are not kept for the next run (%s)", self._device, error)

    def forget(self) -> None:
        """Removes what was kept."""
        self._log.remove()
