"""What devices of a benchmark have measured, kept on the host until all of them are done.

A benchmark is measured in turns, so a device is done as a whole or not at all. Where one of several fails, or the host
is stopped, the same command asks only those that are not done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from edgeq.errors import InputError
from edgeq.results.reading import Result, parse_results
from edgeq.results.serialization import to_json
from edgeq.resume import JobLog
from edgeq.tasks import score_types

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

    def read(self) -> list[Result] | None:
        """Returns what an earlier run has measured, and says so; `None` if there is nothing to take."""
        parts = self._log.parts()
        if not parts:
            return None
        try:
            results = parse_results(parts[-1]["results"], self._log.path, score_types())
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(parts[-1]["measured_at_s"]))
        except (InputError, KeyError, TypeError):
            return None
        _log.warning("%s: reusing what the interrupted run measured at %s", self._device, when)
        return results

    def write(self, results: Sequence[Result]) -> None:
        """Keeps results; without them a next run measures again, so a full disk is no reason to fail."""
        try:
            self._log.add({"measured_at_s": time.time(), "results": to_json(results)})
        except InputError as error:
            _log.warning("%s: its results are not kept for the next run (%s)", self._device, error)

    def forget(self) -> None:
        """Removes what was kept."""
        self._log.remove()
