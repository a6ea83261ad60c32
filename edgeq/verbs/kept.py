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
from edgeq.files import cache_folder, sha256_json, write_json
from edgeq.results.reading import Result, read_results
from edgeq.results.serialization import to_json

_FOLDER = "bench"

_log = logging.getLogger(__name__)


class KeptResults:
    """The results of one device.

    Args:
        device: Its name.
        key: All that they depend on.
    """

    def __init__(self, device: str, key: dict[str, Any]) -> None:
        self._device = device
        self._path = cache_folder() / _FOLDER / f"{sha256_json(key)[:32]}.json"

    def read(self) -> list[Result] | None:
        """Returns what an earlier run has measured, and says so; `None` where there is nothing to take."""
        try:
            measured_at = self._path.stat().st_mtime
            results = read_results([self._path])
        except (OSError, InputError):
            return None
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(measured_at))
        _log.warning("%s: measured at %s, by the run that did not end; taken from there", self._device, when)
        return results

    def write(self, results: Sequence[Result]) -> None:
        """Keeps results; without them a next run measures again, so a full disk is no reason to fail."""
        try:
            write_json(self._path, to_json(results))
        except InputError as error:
            _log.warning("%s: its results are not kept for a next run (%s)", self._device, error)

    def forget(self) -> None:
        """Removes what was kept."""
        self._path.unlink(missing_ok=True)
