"""Imports OpenVINO without its telemetry."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from edgeq.errors import MissingDependencyError

PACKAGE, EXTRA = "openvino", "openvino"
_TELEMETRY = "openvino_telemetry"


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Has openvino be imported in the block without its telemetry.

    Importing it sends an event over the network unless its telemetry package cannot be imported; then it falls back to
    a stub. There is no option for it. Other packages may import telemetry afterwards.
    """
    hidden = PACKAGE not in sys.modules and _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]


def import_openvino(purpose: str) -> Any:
    """Returns the package `openvino`, with its telemetry switched off.

    Args:
        purpose: What needs it, as an error says it.

    Raises:
        MissingDependencyError: it cannot be imported.
    """
    try:
        with without_telemetry():
            return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise MissingDependencyError(PACKAGE, EXTRA, purpose) from error
