"""CUDA through pycuda, in the device's primary context, which TensorRT and torch use too."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgeq.errors import EngineError
from edgeq.runtimes.cuda.base import Cuda, DeviceFacts


class PyCuda(Cuda):
    """The first GPU through pycuda.

    Raises:
        EngineError: pycuda is not installed, or finds no GPU.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            self._driver = importlib.import_module("pycuda.driver")
        except ImportError as error:
            raise EngineError(f"cannot be imported ({error})") from error
        with self._errors("starting CUDA"):
            try:
                importlib.import_module("pycuda.autoprimaryctx")
            except ModuleNotFoundError:  # before pycuda 2021.1; a context of its own, which TensorRT then uses
                importlib.import_module("pycuda.autoinit")
        self._streams: dict[int, Any] = {}
        self._memory: dict[int, Any] = {}

    def facts(self) -> DeviceFacts:
        """Returns what the GPU is."""
        device = self._driver.Context.get_device()
        major, minor = device.compute_capability()
        version = self._driver.get_version()
        return DeviceFacts(device.name(), f"{major}.{minor}", f"{version[0]}.{version[1]}")

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new device memory."""
        with self._errors(f"allocating {nbytes / 1e6:.1f} MB on the device"):
            memory = self._driver.mem_alloc(nbytes)
        self._memory[int(memory)] = memory
        return int(memory)

    def free(self, pointer: int) -> None:
        """Gives back what `allocate` returned."""
        self._memory.pop(pointer).free()

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Returns an array in page-locked, mapped host memory."""
        with self._errors("allocating page-locked memory"):
            array: np.ndarray = self._driver.pagelocked_empty(
                tuple(shape), np.dtype(dtype), mem_flags=self._driver.host_alloc_flags.DEVICEMAP
            )
        return array

    def mapped_pointer(self, array: np.ndarray) -> int:
        """Returns the GPU's address of an array of `host_array`."""
        with self._errors("mapping host memory"):
            return int(array.base.get_device_pointer())  # type: ignore[union-attr]

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copies a whole array to device memory."""
        with self._errors("copying to the device"):
            self._driver.memcpy_htod_async(pointer, array, self._streams[stream])

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Fills a whole array from device memory."""
        with self._errors("copying to the host"):
            self._driver.memcpy_dtoh_async(array, pointer, self._streams[stream])

    def create_stream(self) -> int:
        """Returns the handle of a new stream."""
        with self._errors("making a stream"):
            stream = self._driver.Stream(flags=1)  # CU_STREAM_NON_BLOCKING
        handle = int(stream.handle)
        self._streams[handle] = stream
        return handle

    def destroy_stream(self, stream: int) -> None:
        """Gives back what `create_stream` returned; pycuda destroys it with its last use."""
        del self._streams[stream]

    def create_event(self) -> Any:
        """Returns an event."""
        return self._driver.Event()

    def record(self, event: Any, stream: int) -> None:
        """Puts the event onto a stream."""
        event.record(self._streams[stream])

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Returns the time between two recorded events, after waiting for the second."""
        with self._errors("timing"):
            end.synchronize()
            return float(begin.time_till(end))

    def synchronize(self, stream: int) -> None:
        """Waits for everything on a stream."""
        with self._errors("waiting for the device"):
            self._streams[stream].synchronize()

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns pycuda's errors into one line."""
        try:
            yield
        except (self._driver.Error, RuntimeError) as error:
            raise EngineError(f"{what} failed ({error})") from error
