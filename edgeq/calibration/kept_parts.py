"""What a calibration keeps while it runs, so that a kill costs little of it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from edgeq.calibration.statistics import Request, Statistic

KEEP_S, KEEP_SHARE = 30.0, 0.2
"""What an interrupted run loses at most: seconds, or a share of its time, whichever is more."""


class Pace:
    """When a run keeps what it has: after half a minute, and then less often the longer it takes.

    So a kill costs half a minute or a fifth of the work, and what is kept grows with the logarithm of the time.
    """

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether it is time; if so, the next time is counted from here."""
        now = time.monotonic()
        if now - self._last < max(KEEP_S, KEEP_SHARE * (now - self._begun)):
            return False
        self._last = now
        return True


def merged(*parts: Mapping[Request, Statistic]) -> dict[Request, Statistic]:
    """Returns the statistics of several parts of the images together."""
    found = {}
    for request in parts[0]:
        found[request] = request.start()
        for part in parts:
            found[request].merge(part[request])
    return found
