"""Imports OpenVINO without its telemetry."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edgeq.errors import EngineError, MissingDependencyError
from edgeq.exporting.graphs.graph import first_line

PACKAGE, EXTRA = "openvino", "openvino"
_TELEMETRY = "openvino_telemetry"


def import_openvino(purpose: str) -> Any:
    """Returns the package `openvino`, with its telemetry switched off.

    Args:
        purpose: What needs it, as an error says it.

    Raises:
        MissingDependencyError: it is not installed.
        EngineError: it is installed and cannot be imported, for want of a system library for example.
    """
    has_stub = PACKAGE not in sys.modules and _TELEMETRY not in sys.modules
    if has_stub:
        # Importing openvino sends an event over the network unless its telemetry package cannot be imported; then
        # it falls back to a stub. There is no option for it. Other packages may import it afterwards.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == PACKAGE:
            raise MissingDependencyError(PACKAGE, EXTRA, purpose) from error
        raise EngineError(
            f"{PACKAGE} is installed but cannot be imported ({first_line(error)}); install it again"
        ) from error
    finally:
        if has_stub:
            del sys.modules[_TELEMETRY]
