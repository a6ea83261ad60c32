"""The CUDA bindings over pretended libraries: a C one for ctypes, so that real pointers cross the border."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import shutil
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

import edgeq.runtimes.cuda
from edgeq.errors import EngineError, InputError
from edgeq.runtimes.cuda import Buffer, open_cuda
from edgeq.runtimes.cuda.cudart import _SIGNATURES, CudaRuntime
from edgeq.runtimes.cuda.torch import TorchCuda

# A CUDA runtime in host memory. "Device" pointers are host addresses above 4 GiB, as on every 64-bit system.
SHIM = r"""
#include <stdlib.h>
#include <string.h>
int live = 0, streams = 0, fail = 0, devices = 1, last_kind = 0, captures = 0, launches = 0;
double now = 0;
int cudaGetDeviceCount(int *n) { *n = devices; return 0; }
int cudaSetDevice(int d) { return d != 0; }
int cudaDeviceGetAttribute(int *v, int what, int d) { *v = what == 75 ? 8 : what == 76 ? 7 : -1; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 12060; return 0; }
int cudaMalloc(void **p, size_t n) { if (fail) return 2; *p = malloc(n); live++; return 0; }
int cudaFree(void *p) { free(p); live--; return 0; }
int cudaHostAlloc(void **p, size_t n, unsigned flags) {
  if (fail || flags != 2) return 2; *p = malloc(n); live++; return 0; }
int cudaFreeHost(void *p) { free(p); live--; return 0; }
int cudaHostGetDevicePointer(void **d, void *h, unsigned flags) { *d = h; return flags != 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *stream) {
  if (!stream) return 1; last_kind = kind; memcpy(to, from, n); return 0; }
int cudaStreamCreateWithFlags(void **s, unsigned flags) {
  if (flags != 1) return 1; *s = malloc(1); streams++; return 0; }
int cudaStreamDestroy(void *s) { free(s); streams--; return 0; }
int cudaStreamSynchronize(void *s) { return fail ? 700 : 0; }
int cudaEventCreate(void **e) { *e = malloc(sizeof(double)); live++; return 0; }
int cudaEventDestroy(void *e) { free(e); live--; return 0; }
int cudaEventRecord(void *e, void *s) { *(double *)e = now; now += 1.5; return 0; }
int cudaEventSynchronize(void *e) { return 0; }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = (float)(*(double *)b - *(double *)a); return 0; }
int cudaStreamBeginCapture(void *s, int mode) { captures++; return mode != 1; }
int cudaStreamEndCapture(void *s, void **g) { captures--; *g = malloc(1); live++; return 0; }
int cudaGraphInstantiateWithFlags(void **e, void *g, unsigned long long flags) {
  if (flags || fail) return 900; *e = malloc(1); live++; return 0; }
int cudaGraphLaunch(void *e, void *s) { launches++; return !e || !s; }
int cudaGraphDestroy(void *g) { free(g); live--; return 0; }
int cudaGraphExecDestroy(void *e) { free(e); live--; return 0; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : "an illegal memory access"; }
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetName(char *name, int n, int d) { strncpy(name, "Orin", n); return 0; }
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the pretended libcudart with")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "cudart.c").write_text(SHIM)
    library = folder / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "cudart.c"], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def cudart(shim):
    cuda = CudaRuntime(shim, shim)
    yield cuda
    ctypes.c_int.in_dll(shim, "fail").value = 0


def variable(shim, name):
    return ctypes.c_int.in_dll(shim, name)


def test_every_function_has_its_argument_types(cudart, shim):
    for name, arguments in _SIGNATURES.items():
        assert getattr(shim, name).argtypes == arguments
        assert getattr(shim, name).restype is ctypes.c_int


def test_cudart_copies_there_and_back_and_frees_everything(cudart, shim):
    gc.collect()
    before = variable(shim, "live").value
    stream = cudart.create_stream()
    buffer = Buffer(cudart, (2, 3), np.float32)
    assert buffer.pointer > 1 << 32
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.copyto(buffer.host, wanted)
    buffer.upload(stream)
    assert variable(shim, "last_kind").value == 1
    buffer.host[:] = 0
    buffer.download(stream)
    assert variable(shim, "last_kind").value == 2
    cudart.synchronize(stream)
    np.testing.assert_array_equal(buffer.host, wanted)
    kept = buffer.host
    buffer.free()
    cudart.destroy_stream(stream)
    del buffer
    gc.collect()
    assert variable(shim, "live").value == before + 1  # the host array is still in use
    np.testing.assert_array_equal(kept, wanted)
    del kept
    gc.collect()
    assert variable(shim, "live").value == before
    assert variable(shim, "streams").value == 0


def test_cudart_shares_memory_without_copies(cudart):
    buffer = Buffer(cudart, (4,), np.int64, zero_copy=True)
    assert buffer.pointer == buffer.host.ctypes.data
    buffer.free()


def test_cudart_tells_time_and_what_the_gpu_is(cudart):
    begin, end = cudart.create_event(), cudart.create_event()
    stream = cudart.create_stream()
    cudart.record(begin, stream)
    cudart.record(end, stream)
    assert cudart.elapsed_ms(begin, end) == 1.5
    cudart.destroy_stream(stream)
    facts = cudart.facts()
    assert (facts.gpu, facts.compute_capability, facts.cuda) == ("Orin", "8.7", "12.6")


def test_cudart_captures_and_launches_graphs(cudart, shim):
    gc.collect()
    before = variable(shim, "live").value
    stream = cudart.create_stream()
    inside = []
    graph = cudart.capture(stream, lambda: inside.append(variable(shim, "captures").value))
    assert inside == [1]
    cudart.launch(graph, stream)
    assert variable(shim, "launches").value == 1

    def refuse():
        raise EngineError("cannot be captured")

    with pytest.raises(EngineError, match="cannot be captured"):
        cudart.capture(stream, refuse)
    variable(shim, "fail").value = 1
    with pytest.raises(EngineError, match="error 900"):
        cudart.capture(stream, lambda: None)
    assert variable(shim, "captures").value == 0
    variable(shim, "fail").value = 0
    cudart.destroy_stream(stream)
    del graph
    gc.collect()
    assert variable(shim, "live").value == before


def test_cudart_checks_every_return(cudart, shim):
    variable(shim, "fail").value = 1
    with pytest.raises(
        EngineError, match=r"cudaMalloc failed with CUDA error 2 \(out of memory\); close other programs"
    ):
        cudart.allocate(8)
    with pytest.raises(EngineError, match="cudaHostAlloc failed"):
        cudart.host_array((2,), np.float32)
    with pytest.raises(EngineError, match=r"cudaStreamSynchronize failed with CUDA error 700 \(an illegal"):
        cudart.synchronize(1)


def test_cudart_without_a_gpu_is_told(shim):
    variable(shim, "devices").value = 0
    try:
        with pytest.raises(EngineError, match="finds no GPU"):
            CudaRuntime(shim, shim)
    finally:
        variable(shim, "devices").value = 1


def test_an_old_cudart_is_told():
    with pytest.raises(EngineError, match=r"lacks cudaGetDeviceCount; wanted CUDA 11\.4"):
        CudaRuntime(types.SimpleNamespace())


@pytest.fixture
def pycuda(monkeypatch):
    """A pretended pycuda, with the names and signatures of its documentation."""
    driver: types.ModuleType = types.ModuleType("pycuda.driver")
    log: list[object] = []

    class Error(Exception):
        pass

    class DeviceAllocation:
        def __init__(self, nbytes):
            if nbytes > 1 << 20:
                raise Error("cuMemAlloc failed: out of memory")
            self.memory = np.zeros(nbytes, np.uint8)

        def __int__(self):
            return int(self.memory.ctypes.data)

        def free(self):
            log.append("free")

    class Stream:
        def __init__(self, flags=0):
            self.flags, self.handle = flags, id(self)

        def synchronize(self):
            log.append("synchronize")

    class Event:
        at = 0.0

        def record(self, stream=None):
            assert isinstance(stream, Stream)
            self.at = float(len(log))
            log.append("record")

        def synchronize(self):
            pass

        def time_till(self, other):
            return other.at - self.at

    class Pinned(np.ndarray):
        def get_device_pointer(self):
            return self.ctypes.data

    class Device:
        def name(self):
            return "Orin"

        def compute_capability(self):
            return (8, 7)

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        assert mem_flags == 2
        return np.zeros(shape, dtype).view(Pinned).view()

    def memcpy_htod_async(dest, src, stream=None):
        assert isinstance(stream, Stream)
        ctypes.memmove(dest, src.ctypes.data, src.nbytes)

    def memcpy_dtoh_async(dest, src, stream=None):
        assert isinstance(stream, Stream)
        ctypes.memmove(dest.ctypes.data, src, dest.nbytes)

    contents = {
        "Error": Error,
        "Stream": Stream,
        "Event": Event,
        "mem_alloc": DeviceAllocation,
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "host_alloc_flags": types.SimpleNamespace(DEVICEMAP=2),
        "Context": types.SimpleNamespace(get_device=Device),
        "get_version": lambda: (12, 6, 0),
    }
    for name, value in contents.items():
        setattr(driver, name, value)
    package = types.ModuleType("pycuda")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", types.ModuleType("pycuda.autoprimaryctx"))
    return log


def test_pycuda_copies_there_and_back(pycuda):
    cuda = open_cuda("pycuda")
    stream = cuda.create_stream()
    buffer = Buffer(cuda, (2, 2), np.float32)
    buffer.host[:] = [[1, 2], [3, 4]]
    buffer.upload(stream)
    buffer.host[:] = 0
    begin, end = cuda.create_event(), cuda.create_event()
    cuda.record(begin, stream)
    cuda.record(end, stream)
    buffer.download(stream)
    cuda.synchronize(stream)
    assert buffer.host.tolist() == [[1, 2], [3, 4]]
    assert cuda.elapsed_ms(begin, end) == 1
    assert "synchronize" in pycuda
    buffer.free()
    assert "free" in pycuda
    with pytest.raises(EngineError, match="pycuda offers no CUDA graphs; set EDGEQ_CUDA=cudart"):
        cuda.capture(stream, lambda: None)
    shared = Buffer(cuda, (3,), np.float32, zero_copy=True)
    assert shared.pointer == shared.host.ctypes.data
    assert cuda.facts().gpu == "Orin"
    with pytest.raises(EngineError, match="out of memory"):
        cuda.allocate(1 << 30)
    cuda.destroy_stream(stream)


def test_torch_is_used_only_where_it_is_loaded(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with pytest.raises(EngineError, match="not imported"):
        TorchCuda()


def test_torch_copies_there_and_back(monkeypatch):
    """Real tensors, but on the CPU: only `torch.cuda` is pretended."""
    torch = pytest.importorskip("torch")

    class Stream:
        def __init__(self, device):
            self.cuda_stream = 4711

        def synchronize(self):
            pass

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert isinstance(stream, Stream)

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return 2.5

    def empty(nbytes, *, dtype, device=None, pin_memory=False):
        if nbytes > 1 << 20:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return torch.empty(nbytes, dtype=dtype)

    cuda_part = types.SimpleNamespace(
        is_available=lambda: True,
        synchronize=lambda device: None,
        stream=contextlib.nullcontext,
        Stream=Stream,
        Event=Event,
        get_device_capability=lambda device: (8, 7),
        get_device_name=lambda device: "Orin",
    )
    pretended: Any = types.SimpleNamespace(
        uint8=torch.uint8,
        from_numpy=torch.from_numpy,
        empty=empty,
        device=lambda kind, index: torch.device("cpu"),
        version=types.SimpleNamespace(cuda="12.6.1"),
        cuda=cuda_part,
    )
    monkeypatch.setitem(sys.modules, "torch", pretended)
    cuda = open_cuda("torch")
    assert (cuda.facts().gpu, cuda.facts().cuda) == ("Orin", "12.6")
    stream = cuda.create_stream()
    assert stream == 4711
    buffer = Buffer(cuda, (2, 3), np.float16)
    wanted = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.copyto(buffer.host, wanted)
    buffer.upload(stream)
    buffer.host[:] = 0
    buffer.download(stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(buffer.host, wanted)
    event = cuda.create_event()
    cuda.record(event, stream)
    assert cuda.elapsed_ms(event, event) == 2.5
    buffer.free()
    cuda.destroy_stream(stream)
    with pytest.raises(EngineError, match="no zero copy"):
        Buffer(cuda, (1,), np.float32, zero_copy=True)
    with pytest.raises(EngineError, match=r"allocating 16\.8 MB on the device failed \(CUDA out of memory"):
        cuda.allocate(1 << 24)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["pycuda", "cudart", "torch"])
def test_on_a_real_gpu(name):
    """On a machine with an NVIDIA GPU: memory, copies, events and facts of every binding that is there."""
    if name == "torch":
        pytest.importorskip("torch")
    try:
        cuda = open_cuda(name)
    except EngineError as error:
        pytest.skip(f"{name}: {error}")
    stream = cuda.create_stream()
    buffer = Buffer(cuda, (1000, 1000), np.float32)
    wanted = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    np.copyto(buffer.host, wanted)
    begin, end = cuda.create_event(), cuda.create_event()
    cuda.record(begin, stream)
    buffer.upload(stream)
    cuda.record(end, stream)
    cuda.synchronize(stream)
    buffer.host[:] = 0
    buffer.download(stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(buffer.host, wanted)
    assert cuda.elapsed_ms(begin, end) > 0
    assert cuda.facts().compute_capability.count(".") == 1
    buffer.free()
    cuda.destroy_stream(stream)


def test_bindings_are_tried_in_order_and_forced_by_the_environment(monkeypatch, pycuda, shim):
    monkeypatch.setattr("edgeq.runtimes.cuda.cudart._find_library", lambda: shim)
    monkeypatch.delenv("EDGEQ_CUDA", raising=False)
    assert list(edgeq.runtimes.cuda.BINDINGS) == ["pycuda", "cudart", "torch"]
    assert open_cuda().name == "pycuda"
    monkeypatch.setenv("EDGEQ_CUDA", "cudart")
    assert open_cuda().name == "cudart"
    monkeypatch.delenv("EDGEQ_CUDA")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert open_cuda().name == "cudart"
    with pytest.raises(InputError, match="wanted one of pycuda, cudart, torch"):
        open_cuda("cupy")


def test_no_binding_is_one_clear_line(monkeypatch):
    monkeypatch.delenv("EDGEQ_CUDA", raising=False)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr("edgeq.runtimes.cuda.cudart._candidates", lambda: iter(["libnothing.so"]))
    with pytest.raises(EngineError) as caught:
        open_cuda()
    said = str(caught.value)
    assert said.startswith("no CUDA binding works here (pycuda: cannot be imported")
    assert "libcudart was not found" in said and "pip install pycuda" in said
    assert "\n" not in said
