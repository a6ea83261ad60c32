"""A pretended CUDA device in host memory, for tests without a GPU.

Nothing on a stream happens before it is synchronized, so that a missing wait shows as wrong numbers, and every address
is looked up, so that a freed or foreign one is an error. Time is what the pretended engines say they take.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from edgeq.errors import EngineError
from edgeq.runtimes.cuda import Cuda, DeviceFacts


class Board:
    """The pretended device: its memory, streams and clock.

    Attributes:
        facts: What it says of itself.
        capacity_bytes: Memory that can be allocated.
        clock_ms: Time since it was switched on.
        allocated: Address -> array, of device memory and of page-locked host memory.
        host_addresses: Those of page-locked host memory.
        streams: Handle -> work that waits for `flush`.
        capturing: Whether a stream is being captured.
        launches: CUDA graphs launched.
        compiled: Engines whose kernels were compiled here.
    """

    def __init__(self) -> None:
        self.facts = DeviceFacts("Orin", "8.7", "12.6")
        self.capacity_bytes = 1 << 30
        self.clock_ms = 0.0
        self.allocated: dict[int, np.ndarray] = {}
        self.host_addresses: set[int] = set()
        self.streams: dict[int, list[Callable[[], object]]] = {}
        self.capturing = False
        self.launches = 0
        self.compiled = 0
        self._handles = itertools.count(7001)

    def allocate(self, nbytes: int, *, host: bool) -> np.ndarray:
        used = sum(memory.nbytes for memory in self.allocated.values())
        if used + nbytes > self.capacity_bytes:
            raise EngineError(f"cudaMalloc failed with CUDA error 2 (out of memory), {used} bytes are in use")
        memory = np.full(nbytes, 0xCD, np.uint8)
        self.allocated[memory.ctypes.data] = memory
        if host:
            self.host_addresses.add(memory.ctypes.data)
        return memory

    def at(self, address: int, nbytes: int) -> np.ndarray:
        """Returns the bytes at an address, which has to be that of a live allocation of at least this size."""
        memory = self.allocated.get(address)
        assert memory is not None, f"address {address:#x} is not allocated"
        assert memory.nbytes >= nbytes, f"{memory.nbytes} bytes at {address:#x}, wanted {nbytes}"
        return memory[:nbytes]

    def add_stream(self) -> int:
        handle = next(self._handles)
        self.streams[handle] = []
        return handle

    def enqueue(self, stream: int, work: Callable[[], object]) -> None:
        assert stream in self.streams, f"{stream} is no stream; the default stream would wait for all others"
        self.streams[stream].append(work)

    def flush(self, stream: int) -> None:
        queue = self.streams[stream]
        while queue:
            queue.pop(0)()

    @property
    def device_bytes(self) -> int:
        """Device memory in use."""
        return sum(memory.nbytes for address, memory in self.allocated.items() if address not in self.host_addresses)


class FakeEvent:
    at_ms: float | None = None


class FakeCuda(Cuda):
    """The binding to `FakeCuda.board`."""

    name = "fake"
    board: ClassVar[Board]

    def facts(self) -> DeviceFacts:
        return self.board.facts

    def allocate(self, nbytes: int) -> int:
        return int(self.board.allocate(nbytes, host=False).ctypes.data)

    def free(self, pointer: int) -> None:
        assert pointer not in self.board.host_addresses
        del self.board.allocated[pointer]

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        count = int(np.prod(shape, dtype=np.int64))
        memory = self.board.allocate(count * np.dtype(dtype).itemsize, host=True)
        return memory.view(dtype).reshape(shape)

    def mapped_pointer(self, array: np.ndarray) -> int:
        assert array.ctypes.data in self.board.host_addresses
        return int(array.ctypes.data)

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        assert array.ctypes.data in self.board.host_addresses, "not page-locked"
        target = self.board.at(pointer, array.nbytes)
        self.board.enqueue(stream, lambda: ctypes.memmove(target.ctypes.data, array.ctypes.data, array.nbytes))

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        assert array.ctypes.data in self.board.host_addresses, "not page-locked"
        source = self.board.at(pointer, array.nbytes)
        self.board.enqueue(stream, lambda: ctypes.memmove(array.ctypes.data, source.ctypes.data, array.nbytes))

    def create_stream(self) -> int:
        return self.board.add_stream()

    def destroy_stream(self, stream: int) -> None:
        assert not self.board.streams.pop(stream), "work is left on the stream"

    def create_event(self) -> Any:
        return FakeEvent()

    def record(self, event: Any, stream: int) -> None:
        def stamp() -> None:
            event.at_ms = self.board.clock_ms

        event.at_ms = None
        self.board.enqueue(stream, stamp)

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        assert begin.at_ms is not None and end.at_ms is not None, "an event is waited for that was not reached"
        return float(end.at_ms - begin.at_ms)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        queue = self.board.streams[stream]
        assert not queue, "work is left on the stream"
        self.board.capturing = True
        try:
            enqueue()
        finally:
            self.board.capturing = False
        graph = list(queue)
        queue.clear()
        return graph

    def launch(self, graph: Any, stream: int) -> None:
        self.board.launches += 1
        for work in graph:
            self.board.enqueue(stream, work)

    def synchronize(self, stream: int) -> None:
        assert not self.board.capturing, "a stream is waited for that is being captured"
        self.board.flush(stream)
