"""TensorRT's Python module, and what it says while it works."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from typing import Any

from edgeq.errors import EngineError

_log = logging.getLogger(__name__)

_MAX_MESSAGES = 1000
_QUOTED = 3
_MISSING_SCALE = re.compile(r"Missing scale and zero-point for tensor (.+?), expect")
_MEMORY = re.compile(r"out of memory|OutOfMemory|insufficient memory|NvMap|memory alloc|ENOMEM", re.IGNORECASE)


def import_tensorrt() -> Any:
    """Returns the module `tensorrt`.

    Raises:
        EngineError: it is not there, or cannot be imported.
    """
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            f"TensorRT's Python module cannot be imported ({error}); on a Jetson it comes with JetPack (sudo apt "
            "install nvidia-jetpack), and a virtual environment needs --system-site-packages to see it"
        ) from error


def short_version(version: str) -> str:
    """Returns the first three fields of a version of TensorRT: plans and calibration caches know no more."""
    return ".".join(version.split(".")[:3])


class Messages:
    """What TensorRT said: the only evidence of why it returned None, and of silent fallbacks.

    Attributes:
        errors: Errors, in order.
        warnings: Warnings, in order.
        missing_scales: Tensors that implicit quantization found no scale for.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.missing_scales: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keeps an error or a warning; everything goes to the log for `EDGEQ_DEBUG=1`."""
        _log.debug("TensorRT %s: %s", severity.lower(), text)
        if found := _MISSING_SCALE.search(text):
            self.missing_scales.append(found[1])
        elif severity in ("ERROR", "INTERNAL_ERROR") and len(self.errors) < _MAX_MESSAGES:
            self.errors.append(text)
        elif severity == "WARNING" and len(self.warnings) < _MAX_MESSAGES:
            self.warnings.append(text)

    def said(self) -> str:
        """Returns the last errors, or warnings where there is no error, for an error of ours."""
        lines = [" ".join(line.split()) for line in (self.errors or self.warnings)[-_QUOTED:]]
        return "TensorRT said: " + " | ".join(lines) if lines else "TensorRT gave no reason"

    @property
    def lacks_memory(self) -> bool:
        """Whether an error speaks of memory."""
        return any(_MEMORY.search(line) for line in self.errors)

    def advice(self, otherwise: str) -> str:
        """Returns the next step after a failure."""
        if self.lacks_memory:
            return "free memory (close other programs and the desktop, add swap), or build with a smaller `workspace`"
        return otherwise


def make_logger(trt: Any, messages: Messages) -> Any:
    """Returns an `ILogger` of this TensorRT that fills `messages`; it has to outlive everything made with it."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.add(str(getattr(severity, "name", severity)), msg)

    return Logger()


def construct(make: Callable[[], Any], what: str, messages: Messages) -> Any:
    """Returns an object of TensorRT's, which tells failure by None, or by pybind11's TypeError from a constructor.

    Args:
        make: Makes it.
        what: What it is, for the error.
        messages: What TensorRT says meanwhile.

    Raises:
        EngineError: TensorRT made none.
    """
    try:
        made = make()
    except TypeError as error:
        if "nullptr" not in str(error):
            raise
        made = None
    if made is None:
        raise EngineError(
            f"TensorRT made no {what}; {messages.said()}; "
            f"{messages.advice('check driver and GPU with `edgeq doctor --device-test`')}"
        )
    return made
