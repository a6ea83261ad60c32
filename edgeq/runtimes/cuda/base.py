"""What a CUDA binding has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from edgeq.errors import EngineError


@dataclass(frozen=True)
class DeviceFacts:
    """What the GPU is.

    Attributes:
        gpu: Its name, as the driver says it.
        compute_capability: `major.minor`; Orin is 8.7.
        cuda: Version of the CUDA runtime that the binding uses, `major.minor`.
    """

    gpu: str
    compute_capability: str
    cuda: str


class Cuda(ABC):
    """The first GPU, in its primary context, which TensorRT shares.

    Pointers and stream handles are integers, as TensorRT takes them. Everything on a stream happens after the call
    returned, in order; host arrays may be read and written again after `synchronize`.

    Attributes:
        name: As in `edgeq.runtimes.cuda.BINDINGS`.
    """

    name: ClassVar[str]

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """Returns what the GPU is."""

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Returns the address of new device memory.

        Raises:
            EngineError: there is not enough.
        """

    @abstractmethod
    def free(self, pointer: int) -> None:
        """Gives back what `allocate` returned."""

    @abstractmethod
    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Returns an array in page-locked host memory, so that copies are asynchronous; it lives as long as its uses.

        Raises:
            EngineError: there is not enough memory.
        """

    @abstractmethod
    def mapped_pointer(self, array: np.ndarray) -> int:
        """Returns the address by which the GPU reads and writes an array of `host_array` itself (zero copy).

        Raises:
            EngineError: the binding or the device cannot.
        """

    @abstractmethod
    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copies a whole array of `host_array` to device memory."""

    @abstractmethod
    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Fills a whole array of `host_array` from device memory."""

    @abstractmethod
    def create_stream(self) -> int:
        """Returns the handle of a new stream; it does not wait for the default stream."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None:
        """Gives back what `create_stream` returned."""

    @abstractmethod
    def create_event(self) -> Any:
        """Returns an event that measures time; it is freed with its last use."""

    @abstractmethod
    def record(self, event: Any, stream: int) -> None:
        """Puts the event onto a stream."""

    @abstractmethod
    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Returns the time between two recorded events, after waiting for the second."""

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Waits for everything on a stream.

        Raises:
            EngineError: something on it failed.
        """

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """Returns a CUDA graph of what `enqueue` puts onto a stream; nothing of it is run yet.

        A graph is launched in one call, which helps where the CPU takes longer to hand over a network than the GPU to
        compute it.

        Raises:
            EngineError: the binding has no graphs, or the work cannot be captured.
        """
        raise EngineError(f"the CUDA binding {self.name} offers no CUDA graphs; set EDGEQ_CUDA=cudart")

    def launch(self, graph: Any, stream: int) -> None:
        """Puts a captured graph onto a stream.

        Raises:
            EngineError: it cannot be launched.
        """
        raise EngineError(f"the CUDA binding {self.name} offers no CUDA graphs; set EDGEQ_CUDA=cudart")


class Buffer:
    """A tensor in page-locked host memory and on the device: twice, or once where nothing is copied.

    Args:
        cuda: The device.
        shape: Shape of the tensor.
        dtype: Its type.
        zero_copy: Whether the GPU works in the host's memory; on a Jetson both are the same DRAM.

    Attributes:
        host: The host's array.
        pointer: The address that the GPU uses.
    """

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: DTypeLike, *, zero_copy: bool = False) -> None:
        self._cuda = cuda
        self._zero_copy = zero_copy
        self.host = cuda.host_array(shape, dtype)
        # An empty tensor has an address too: TensorRT takes no null pointer.
        self.pointer = cuda.mapped_pointer(self.host) if zero_copy else cuda.allocate(max(1, self.host.nbytes))

    def upload(self, stream: int) -> None:
        """Makes the GPU see what stands in `host`."""
        if not self._zero_copy:
            self._cuda.copy_to_device(self.pointer, self.host, stream)

    def download(self, stream: int) -> None:
        """Makes `host` hold what the GPU wrote, once the stream is synchronized."""
        if not self._zero_copy:
            self._cuda.copy_to_host(self.host, self.pointer, stream)

    def free(self) -> None:
        """Gives the device's memory back; the host's goes with its array."""
        if not self._zero_copy:
            self._cuda.free(self.pointer)
