"""CUDA through torch, for programs that have loaded it anyway."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgeq.errors import EngineError
from edgeq.runtimes.cuda.base import Cuda, DeviceFacts


class TorchCuda(Cuda):
    """The first GPU through torch; memory is that of torch's tensors.

    Raises:
        EngineError: torch is not imported yet, or finds no GPU.
    """

    name = "torch"

    def __init__(self) -> None:
        # Importing it takes seconds and hundreds of megabytes, which a board has better uses for.
        if "torch" not in sys.modules:
            raise EngineError("is not imported by this program")
        self._torch: Any = sys.modules["torch"]
        if not self._torch.cuda.is_available():
            raise EngineError("was built without CUDA or finds no GPU")
        self._device = self._torch.device("cuda", 0)
        self._memory: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}

    def facts(self) -> DeviceFacts:
        """Returns what the GPU is."""
        major, minor = self._torch.cuda.get_device_capability(self._device)
        version = ".".join(str(self._torch.version.cuda).split(".")[:2])
        return DeviceFacts(self._torch.cuda.get_device_name(self._device), f"{major}.{minor}", version)

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new device memory."""
        with self._errors(f"allocating {nbytes / 1e6:.1f} MB on the device"):
            tensor = self._torch.empty(nbytes, dtype=self._torch.uint8, device=self._device)
        # What torch freed lately may still be in use on another stream.
        self._torch.cuda.synchronize(self._device)
        pointer = int(tensor.data_ptr())
        self._memory[pointer] = tensor
        return pointer

    def free(self, pointer: int) -> None:
        """Gives back what `allocate` returned."""
        del self._memory[pointer]

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Returns an array in page-locked host memory."""
        count = int(np.prod(shape, dtype=np.int64))
        with self._errors("allocating page-locked memory"):
            tensor = self._torch.empty(
                max(1, count * np.dtype(dtype).itemsize), dtype=self._torch.uint8, pin_memory=True
            )
        # The array keeps the tensor's memory alive.
        array: np.ndarray = np.frombuffer(tensor.numpy(), dtype, count).reshape(shape)
        return array

    def mapped_pointer(self, array: np.ndarray) -> int:
        """Raises `EngineError`: torch does not tell such addresses."""
        raise EngineError("torch offers no zero copy; set EDGEQ_CUDA to pycuda or cudart")

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copies a whole array to device memory."""
        with self._errors("copying to the device"), self._torch.cuda.stream(self._streams[stream]):
            self._memory[pointer][: array.nbytes].copy_(self._bytes(array), non_blocking=True)

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Fills a whole array from device memory."""
        with self._errors("copying to the host"), self._torch.cuda.stream(self._streams[stream]):
            self._bytes(array).copy_(self._memory[pointer][: array.nbytes], non_blocking=True)

    def create_stream(self) -> int:
        """Returns the handle of a new stream."""
        stream = self._torch.cuda.Stream(self._device)
        handle = int(stream.cuda_stream)
        self._streams[handle] = stream
        return handle

    def destroy_stream(self, stream: int) -> None:
        """Gives back what `create_stream` returned; torch destroys it with its last use."""
        del self._streams[stream]

    def create_event(self) -> Any:
        """Returns an event."""
        return self._torch.cuda.Event(enable_timing=True)

    def record(self, event: Any, stream: int) -> None:
        """Puts the event onto a stream."""
        event.record(self._streams[stream])

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Returns the time between two recorded events, after waiting for the second."""
        with self._errors("timing"):
            end.synchronize()
            return float(begin.elapsed_time(end))

    def synchronize(self, stream: int) -> None:
        """Waits for everything on a stream."""
        with self._errors("waiting for the device"):
            self._streams[stream].synchronize()

    def _bytes(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(array.reshape(-1).view(np.uint8))

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns torch's errors into one line; running out of memory is one of them."""
        try:
            yield
        except RuntimeError as error:
            raise EngineError(f"{what} failed ({str(error).splitlines()[0]})") from error
