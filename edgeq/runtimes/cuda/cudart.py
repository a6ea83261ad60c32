"""CUDA's runtime library through ctypes: no package to install, and always the version that the board has.

The calls and constants are those of NVIDIA's CUDA Runtime API reference; all of them are the same in CUDA 11 to 13.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import site
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from edgeq.errors import EngineError
from edgeq.runtimes.cuda.base import Cuda, DeviceFacts

_Pointer = ctypes.c_void_p
_Out = ctypes.POINTER(ctypes.c_void_p)
_IntOut = ctypes.POINTER(ctypes.c_int)

# Argument types of every function that is called: without them ctypes cuts 64-bit pointers to 32 bits.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (_IntOut,),
    "cudaSetDevice": (ctypes.c_int,),
    "cudaDeviceGetAttribute": (_IntOut, ctypes.c_int, ctypes.c_int),
    "cudaRuntimeGetVersion": (_IntOut,),
    "cudaMalloc": (_Out, ctypes.c_size_t),
    "cudaFree": (_Pointer,),
    "cudaHostAlloc": (_Out, ctypes.c_size_t, ctypes.c_uint),
    "cudaFreeHost": (_Pointer,),
    "cudaHostGetDevicePointer": (_Out, _Pointer, ctypes.c_uint),
    "cudaMemcpyAsync": (_Pointer, _Pointer, ctypes.c_size_t, ctypes.c_int, _Pointer),
    "cudaStreamCreateWithFlags": (_Out, ctypes.c_uint),
    "cudaStreamDestroy": (_Pointer,),
    "cudaStreamSynchronize": (_Pointer,),
    "cudaEventCreate": (_Out,),
    "cudaEventDestroy": (_Pointer,),
    "cudaEventRecord": (_Pointer, _Pointer),
    "cudaEventSynchronize": (_Pointer,),
    "cudaEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _Pointer, _Pointer),
    "cudaStreamBeginCapture": (_Pointer, ctypes.c_int),
    "cudaStreamEndCapture": (_Pointer, _Out),
    "cudaGraphInstantiateWithFlags": (_Out, _Pointer, ctypes.c_ulonglong),
    "cudaGraphLaunch": (_Pointer, _Pointer),
    "cudaGraphDestroy": (_Pointer,),
    "cudaGraphExecDestroy": (_Pointer,),
}
_DEVICE = 0
_HOST_ALLOC_MAPPED = 0x02
_STREAM_NON_BLOCKING = 0x01
_CAPTURE_THREAD_LOCAL = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_MEMORY_ALLOCATION = 2
_NAME_BYTES = 256

# Where JetPack and CUDA's packages put the library, beside the loader's own search path.
_FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
_SONAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")


class CudaRuntime(Cuda):
    """The first GPU through libcudart.

    Args:
        library: The loaded library; by default the one that the system has.
        driver: The loaded driver library, which knows the GPU's name.

    Raises:
        EngineError: there is no such library, or it finds no GPU.
    """

    name = "cudart"

    def __init__(self, library: Any = None, driver: Any = None) -> None:
        self._library = _find_library() if library is None else library
        self._driver = driver
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name, None)
            if function is None:
                raise EngineError(f"CUDA's runtime library lacks {name}; wanted CUDA 11.4 or newer")
            function.argtypes, function.restype = arguments, ctypes.c_int
        self._library.cudaGetErrorString.argtypes = (ctypes.c_int,)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        if self._integer("cudaGetDeviceCount") < 1:
            raise EngineError("CUDA finds no GPU; is this user in the group `video`?")
        self._call("cudaSetDevice", _DEVICE)

    def facts(self) -> DeviceFacts:
        """Returns what the GPU is."""
        major = self._integer("cudaDeviceGetAttribute", _COMPUTE_CAPABILITY_MAJOR, _DEVICE)
        minor = self._integer("cudaDeviceGetAttribute", _COMPUTE_CAPABILITY_MINOR, _DEVICE)
        version = self._integer("cudaRuntimeGetVersion")
        return DeviceFacts(self._gpu_name(), f"{major}.{minor}", f"{version // 1000}.{version % 1000 // 10}")

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new device memory."""
        return self._pointer("cudaMalloc", nbytes)

    def free(self, pointer: int) -> None:
        """Gives back what `allocate` returned."""
        self._call("cudaFree", pointer)

    def host_array(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """Returns an array in page-locked, mapped host memory."""
        count = int(np.prod(shape, dtype=np.int64))
        nbytes = max(1, count * np.dtype(dtype).itemsize)
        pointer = self._pointer("cudaHostAlloc", nbytes, _HOST_ALLOC_MAPPED)
        memory: Any = (ctypes.c_ubyte * nbytes).from_address(pointer)
        # At the interpreter's end the library may be gone before the array.
        weakref.finalize(memory, self._library.cudaFreeHost, pointer).atexit = False
        array: np.ndarray = np.frombuffer(memory, dtype, count).reshape(shape)
        return array

    def mapped_pointer(self, array: np.ndarray) -> int:
        """Returns the GPU's address of an array of `host_array`."""
        return self._pointer("cudaHostGetDevicePointer", array.ctypes.data, 0)

    def copy_to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Copies a whole array to device memory."""
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE, stream)

    def copy_to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Fills a whole array from device memory."""
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, _DEVICE_TO_HOST, stream)

    def create_stream(self) -> int:
        """Returns the handle of a new, non-blocking stream."""
        return self._pointer("cudaStreamCreateWithFlags", _STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Gives back what `create_stream` returned."""
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> Any:
        """Returns an event."""
        return _Owned(self._pointer("cudaEventCreate"), self._library.cudaEventDestroy)

    def record(self, event: Any, stream: int) -> None:
        """Puts the event onto a stream."""
        self._call("cudaEventRecord", event.handle, stream)

    def elapsed_ms(self, begin: Any, end: Any) -> float:
        """Returns the time between two recorded events, after waiting for the second."""
        self._call("cudaEventSynchronize", end.handle)
        elapsed = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(elapsed), begin.handle, end.handle)
        return elapsed.value

    def synchronize(self, stream: int) -> None:
        """Waits for everything on a stream."""
        self._call("cudaStreamSynchronize", stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> Any:
        """Returns a CUDA graph of what `enqueue` puts onto a stream."""
        self._call("cudaStreamBeginCapture", stream, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue()
        except EngineError:
            with contextlib.suppress(EngineError):  # the stream has to leave the capture, which has failed
                self._call("cudaGraphDestroy", self._pointer_after("cudaStreamEndCapture", stream))
            raise
        graph = self._pointer_after("cudaStreamEndCapture", stream)
        try:
            executable = self._pointer("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)
        return _Owned(executable, self._library.cudaGraphExecDestroy)

    def launch(self, graph: Any, stream: int) -> None:
        """Puts a captured graph onto a stream."""
        self._call("cudaGraphLaunch", graph.handle, stream)

    def _pointer_after(self, name: str, argument: int) -> int:
        """Returns the pointer that a function writes to its second argument."""
        pointer = ctypes.c_void_p()
        self._call(name, argument, ctypes.byref(pointer))
        if pointer.value is None:
            raise EngineError(f"{name} returned nothing")
        return pointer.value

    def _pointer(self, name: str, *arguments: Any) -> int:
        """Returns the pointer that a function writes to its first argument."""
        pointer = ctypes.c_void_p()
        self._call(name, ctypes.byref(pointer), *arguments)
        if pointer.value is None:
            raise EngineError(f"{name} returned no address")
        return pointer.value

    def _integer(self, name: str, *arguments: int) -> int:
        number = ctypes.c_int()
        self._call(name, ctypes.byref(number), *arguments)
        return number.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = (self._library.cudaGetErrorString(code) or b"").decode(errors="replace")
            advice = "; close other programs or take a smaller input" if code == _MEMORY_ALLOCATION else ""
            raise EngineError(f"{name} failed with CUDA error {code} ({said}){advice}")

    def _gpu_name(self) -> str:
        """Returns the GPU's name from the driver: the runtime's structure for it differs between versions."""
        driver = self._driver
        if driver is None:
            try:
                driver = ctypes.CDLL("libcuda.so.1")
            except OSError:
                return "unknown"
        name = ctypes.create_string_buffer(_NAME_BYTES)
        if driver.cuInit(0) or driver.cuDeviceGetName(name, _NAME_BYTES, _DEVICE):
            return "unknown"
        return name.value.decode(errors="replace")


class _Owned:
    """An event or a graph, which is destroyed with its last use."""

    def __init__(self, handle: int, destroy: Callable[[int], int]) -> None:
        self.handle = handle
        weakref.finalize(self, destroy, handle).atexit = False


def _find_library() -> Any:
    for candidate in _candidates():
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise EngineError("CUDA's runtime library libcudart was not found")


def _candidates() -> Iterator[str]:
    for folder in map(Path, _FOLDERS):
        yield from (str(folder / name) for name in _SONAMES if (folder / name).exists())
    yield from _SONAMES
    for folder in map(Path, site.getsitepackages()):  # pip's own: nvidia-cuda-runtime-cu12, nvidia-cuda-runtime
        yield from map(str, sorted(folder.glob("nvidia/cu*/lib/libcudart.so.*")))
    if found := ctypes.util.find_library("cudart"):
        yield found
