"""CUDA memory, streams and events behind one small interface, over whichever Python binding a device has.

A binding is one file in this folder and one line in `BINDINGS`. `EDGEQ_CUDA=NAME` forces one, in child processes too.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from edgeq.errors import EngineError, InputError
from edgeq.registry import load_object
from edgeq.runtimes.cuda.base import Buffer, Cuda, DeviceFacts

__all__ = ["BINDINGS", "Buffer", "Cuda", "DeviceFacts", "driver_problem", "open_cuda"]

# In the order they are tried.
BINDINGS: dict[str, str] = {
    "pycuda": "edgeq.runtimes.cuda.pycuda:PyCuda",
    "cudart": "edgeq.runtimes.cuda.cudart:CudaRuntime",
    "torch": "edgeq.runtimes.cuda.torch:TorchCuda",
}

_ENVIRONMENT = "EDGEQ_CUDA"
_DRIVER = "libcuda.so.1"


def open_cuda(binding: str | None = None) -> Cuda:
    """Returns the device through a CUDA binding.

    Args:
        binding: A name of `BINDINGS`; by default that of the environment variable `EDGEQ_CUDA`, or else the first one
            that works.

    Raises:
        InputError: there is no binding of that name.
        EngineError: the named binding, or every one, is missing or finds no device.
    """
    wished = binding or os.environ.get(_ENVIRONMENT)
    if wished:
        if wished not in BINDINGS:
            raise InputError(f"CUDA binding {wished!r}: wanted one of {', '.join(BINDINGS)}")
        return _load(wished)()
    reasons = []
    for name in BINDINGS:
        try:
            return _load(name)()
        except EngineError as error:
            reasons.append(f"{name}: {error}")
    raise EngineError(
        f"no CUDA binding works here ({'; '.join(reasons)}); on a Jetson install CUDA's runtime (sudo apt install "
        "nvidia-cuda) or run: pip install pycuda"
    )


def driver_problem() -> str | None:
    """Returns why NVIDIA's driver finds no GPU here; `None` if it finds one."""
    try:
        driver: Any = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"this machine has none ({_DRIVER} was not found)"
    if code := driver.cuInit(0):
        return f"its cuInit fails with error {code}"
    count = ctypes.c_int()
    if (code := driver.cuDeviceGetCount(ctypes.byref(count))) or not count.value:
        return f"it finds {count.value} GPUs (error {code})"
    return None


def _load(name: str) -> type[Cuda]:
    binding: type[Cuda] = load_object("CUDA binding", BINDINGS[name])
    return binding
