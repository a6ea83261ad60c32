"""Prepared inputs in memory, for jobs that pass over the same images many times."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any


class InputCache:
    """Keeps values up to a number of bytes; for several threads.

    When it is full it keeps what it has. A cache that drops the oldest value would find nothing in a pass over more
    images than it holds; this one finds its share of them in every pass.

    Args:
        limit_bytes: The most that is kept; 0 keeps nothing.

    Attributes:
        size_bytes: What is kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._kept: dict[Hashable, Any] = {}
        self.size_bytes = 0

    def get(self, key: Hashable) -> Any:
        """Returns the value that is kept under a key, or `None`."""
        return self._kept.get(key)

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keeps a value if it still fits; it must not be changed afterwards."""
        with self._lock:
            if key not in self._kept and self.size_bytes + size_bytes <= self._limit_bytes:
                self._kept[key] = value
                self.size_bytes += size_bytes
