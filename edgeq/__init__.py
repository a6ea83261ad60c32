"""edgeq: one calibration, every edge engine, and each file carries the proof of what it costs.

The names below load on first use: `import edgeq` itself imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeq.calibrators import Histogram
    from edgeq.calibrators.ranges import Ranges
    from edgeq.exporting.artifact import Artifact
    from edgeq.runtimes import Session, open_session
    from edgeq.targets import Target, get_target

__version__ = "0.1.0"

__all__ = ["Artifact", "Histogram", "Ranges", "Session", "Target", "get_target", "open_session"]

# Name -> module that holds it. A name stands here, in `__all__` and in the block for type checkers above;
# tests/test_api.py says where one is missing.
_HOME = {
    "Artifact": "edgeq.exporting.artifact",
    "Histogram": "edgeq.calibrators",
    "Ranges": "edgeq.calibrators.ranges",
    "Session": "edgeq.runtimes",
    "Target": "edgeq.targets",
    "get_target": "edgeq.targets",
    "open_session": "edgeq.runtimes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
