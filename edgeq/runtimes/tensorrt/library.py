"""NVIDIA's two libraries with TensorRT's API, and what they say while they work."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edgeq.errors import EngineError

_log = logging.getLogger(__name__)

_MAX_MESSAGES = 1000
_QUOTED = 3
_MISSING_SCALE = re.compile(r"Missing scale and zero-point for tensor (.+?), expect")
# The one about resources is what a thread fails with that finds no memory for its stack.
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|insufficient memory|NvMap|memory alloc|ENOMEM|bad_alloc|cannot allocate memory"
    r"|resource temporarily unavailable",
    re.IGNORECASE,
)
# What threads' stacks count against a limit before they are touched.
_STACKS_BYTES = 32 << 20


@dataclass(frozen=True)
class Library:
    """A library with TensorRT's API.

    Attributes:
        runtime: Name of the runtime that runs its engines.
        module: Its Python module.
        title: What NVIDIA calls it.
        engines: Format of its engines.
        install: How to get it, for the error where it is missing.
        names_gpus: Whether engines are built for named kinds of GPU, on any machine; otherwise for the GPU of this one.
    """

    runtime: str
    module: str
    title: str
    engines: str
    install: str
    names_gpus: bool

    def load(self) -> Any:
        """Returns the module.

        Raises:
            EngineError: it is not there, or cannot be imported.
        """
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise EngineError(f"{self.title}'s Python module cannot be imported ({error}); {self.install}") from error


TENSORRT = Library(
    runtime="tensorrt",
    module="tensorrt",
    title="TensorRT",
    engines="engine",
    install="on a Jetson it comes with JetPack (sudo apt install nvidia-jetpack), and a virtual environment needs "
    "--system-site-packages to see it",
    names_gpus=False,
)
"""TensorRT, of a Jetson or a server: builds on the device that runs the engine."""

TENSORRT_RTX = Library(
    runtime="tensorrt-rtx",
    module="tensorrt_rtx",
    title="TensorRT for RTX",
    engines="rtx-engine",
    install="run: pip install 'edgeq[rtx]' (NVIDIA's own licence)",
    names_gpus=True,
)
"""TensorRT for RTX, of PCs: builds without a GPU, and finishes the kernels on the GPU that runs the engine."""

LIBRARIES = {library.runtime: library for library in (TENSORRT, TENSORRT_RTX)}
"""Runtime -> its library."""


def describe(trt: ModuleType) -> str:
    """Returns name and version of a loaded library, for errors."""
    title = next((each.title for each in LIBRARIES.values() if each.module == trt.__name__), TENSORRT.title)
    return f"{title} {trt.__version__}"


def short_version(version: str) -> str:
    """Returns the first three fields of a version of TensorRT: plans and calibration caches know no more."""
    return ".".join(version.split(".")[:3])


def is_about_memory(said: str) -> bool:
    """Returns whether an error of the library's speaks of memory."""
    return _MEMORY.search(said) is not None


def is_all_memory(peak_bytes: int | None, limit: int | None) -> bool:
    """Returns whether a process that held so much at its peak has met its limit: allocations fail before it."""
    return limit is not None and peak_bytes is not None and peak_bytes > 0.9 * limit - _STACKS_BYTES


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
        return any(map(is_about_memory, self.errors))

    def advice(self, otherwise: str) -> str:
        """Returns the next step after a failure."""
        if self.lacks_memory:
            return "free memory (close other programs and the desktop, add swap), or build with a smaller `workspace`"
        return otherwise


def make_logger(trt: Any, messages: Messages, log: list[str] | None = None) -> Any:
    """Returns an `ILogger` of this TensorRT that fills `messages`; it has to outlive everything made with it.

    Args:
        trt: The library.
        messages: What it fills with errors and warnings.
        log: What everything that the library says is added to; `None` does without.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            messages.add(str(getattr(severity, "name", severity)), msg)
            if log is not None:
                log.append(msg)

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
