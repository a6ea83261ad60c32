"""TensorRT on the GPU or a DLA core, and TensorRT for RTX: two libraries with one API, and one session."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.results.measurement import LayerProfile, LayerTime
from edgeq.runtimes.base import Arrays, DeviceTimes, Session
from edgeq.runtimes.cuda import Buffer
from edgeq.runtimes.tensorrt.contexts import Context
from edgeq.runtimes.tensorrt.facts import BuildFacts, check_platform, read_platform
from edgeq.runtimes.tensorrt.gpus import open_gpu
from edgeq.runtimes.tensorrt.library import TENSORRT, TENSORRT_RTX, Library, Messages, construct, describe, make_logger

# TensorRT's names of types -> numpy's. bfloat16 and the 8- and 4-bit floats have none.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
_ZERO_COPY, _CUDA_GRAPH = "EDGEQ_ZERO_COPY", "EDGEQ_CUDA_GRAPH"
_NS_PER_MS = 1e6

Shapes = dict[str, tuple[int, ...]]


class TensorRtSession(Session):
    """An engine that `edgeq build` made, with the library that it was made with.

    Inputs and outputs lie in page-locked memory and are copied to and from the device on one stream of its own; with
    `EDGEQ_ZERO_COPY=1` the GPU works in the host's memory, which on a Jetson is the same DRAM. With
    `EDGEQ_CUDA_GRAPH=1` all kernels are launched in one call.

    Attributes:
        library: What runs it.
    """

    library: ClassVar[Library] = TENSORRT
    runtime = TENSORRT.runtime
    package = TENSORRT.module
    extra: ClassVar[str | None] = None
    formats = (TENSORRT.engines,)

    @classmethod
    def import_engine(cls) -> Any:
        """Returns the library's module."""
        return cls.library.load()

    def _open(self, compute_precision: str | None) -> None:
        if compute_precision is not None:
            raise InputError(
                f"{self.runtime} fixes precisions when an engine is built, not when it runs ({compute_precision!r}); "
                "export and build the precision that you want"
            )
        self._trt = self.import_engine()
        self._cuda = open_gpu(self.library)
        self._zero_copy = os.environ.get(_ZERO_COPY) == "1"
        self._wants_graph = os.environ.get(_CUDA_GRAPH) == "1"
        self._graph: Any = None
        self._facts = BuildFacts.of(self.artifact)
        self._platform = read_platform(self._trt, self._cuda)
        check_platform(self.artifact, self._facts, self._platform, self.library)
        self._profiler: Any = None
        self._messages = Messages()
        self._logger = make_logger(self._trt, self._messages)
        self._engine = self._load()
        self._check_tensors()
        made = Context(self._trt, self._engine, self.artifact, self._messages, cuda_graph=self._wants_graph)
        self._made, self._context = made, made.handle
        if self._context is None:
            raise EngineError(
                f"{self.artifact.path}: {self.library.title} made no execution context, which needs "
                f"{self.device_memory_bytes / 1e6:.0f} MB; {self._messages.said()}; free memory (close other programs "
                "and the desktop), or export a smaller input"
            )
        self._stream = self._cuda.create_stream()
        self._buffers: dict[str, Buffer] = {}
        self._shapes: Shapes = {}
        try:
            self._events = (self._cuda.create_event(), self._cuda.create_event())
            if all(length is not None for spec in self.artifact.inputs for length in spec.shape):
                self._prepare({spec.name: _fixed(spec) for spec in self.artifact.inputs})
        except EngineError:
            self.close()
            raise

    @property
    def device_memory_bytes(self) -> int:
        """Memory that an execution context takes for activations, besides the weights."""
        attribute = "device_memory_size_v2" if hasattr(self._engine, "device_memory_size_v2") else "device_memory_size"
        return int(getattr(self._engine, attribute))

    @property
    def engine(self) -> Any:
        """TensorRT's engine, for the inspector."""
        return self._engine

    @property
    def context(self) -> Any:
        """TensorRT's execution context, for the inspector."""
        return self._context

    def profile_by(self, profiler: Any) -> None:
        """Sets TensorRT's profiler, from now on: it slows every run down, and takes kernels one by one, no graph."""
        self._profiler = profiler  # the context does not keep it alive
        self._wants_graph, self._graph = False, None
        self._context.profiler = profiler

    def _load(self) -> Any:
        self._runtime = construct(lambda: self._trt.Runtime(self._logger), "runtime", self._messages)
        if self._facts.dla_core is not None:
            self._runtime.DLA_core = self._facts.dla_core
        engine = self._runtime.deserialize_cuda_engine(serialized_engine=self.artifact.path.read_bytes())
        if engine is None:
            raise EngineError(
                f"{self.artifact.path}: {describe(self._trt)} cannot load it ({self._messages.said()}); "
                f"{self._messages.advice('rebuild on this device with `edgeq build`')}"
            )
        return engine

    def _check_tensors(self) -> None:
        names = [self._engine.get_tensor_name(index=index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == self._trt.TensorIOMode.INPUT]
        self._require_tensors(inputs, set(names).difference(inputs))
        specs = {spec.name: spec for spec in (*self.artifact.inputs, *self.artifact.outputs)}
        for name in names:
            if name not in specs:
                raise EngineError(
                    f"{self.artifact.path}: has a tensor {name!r} that its manifest does not know; build it again"
                )
            found = _DTYPES.get(self._engine.get_tensor_dtype(name).name, "a type that numpy does not have")
            if found != specs[name].dtype:
                raise EngineError(
                    f"{self.artifact.path}: its tensor {name!r} is {found}, its manifest says {specs[name].dtype}; "
                    "build it again"
                )
            if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise EngineError(
                    f"{self.artifact.path}: its tensor {name!r} is a shape that is read on the host; export the model "
                    "with a fixed size"
                )

    def _prepare(self, shapes: Shapes) -> None:
        """Sets shapes, allocates a buffer for every tensor and tells the context where they are."""
        if shapes == self._shapes:
            return
        self._free_buffers()
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineError(
                    f"{self.artifact.path}: its input {name!r} does not take the shape {shape} "
                    f"({self._messages.said()}); build it with that `batch`"
                )
        if unknown := self._context.infer_shapes():
            raise EngineError(f"{self.artifact.path}: TensorRT does not know the shapes of {', '.join(unknown)}")
        for spec in (*self.artifact.inputs, *self.artifact.outputs):
            shape = tuple(self._context.get_tensor_shape(spec.name))
            if any(length < 0 for length in shape):
                raise EngineError(
                    f"{self.artifact.path}: the shape {shape} of its output {spec.name!r} depends on the data; export "
                    "the model without its post-processing"
                )
            buffer = Buffer(self._cuda, shape, spec.dtype, zero_copy=self._zero_copy)
            self._buffers[spec.name] = buffer
            if not self._context.set_tensor_address(spec.name, buffer.pointer):
                raise EngineError(
                    f"{self.artifact.path}: TensorRT refused the memory of {spec.name!r} ({self._messages.said()})"
                )
        self._shapes = shapes

    def _run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        self._prepare({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            np.copyto(self._buffers[name].host, array, casting="no")
        begin, end = self._events
        for name in inputs:
            self._buffers[name].upload(self._stream)
        self._cuda.record(begin, self._stream)
        started = time.perf_counter_ns()
        try:
            if self._graph is None:
                self._enqueue()
            else:
                self._cuda.launch(self._graph, self._stream)
        except EngineError:
            with contextlib.suppress(EngineError):  # the copies that wait on the stream use the buffers
                self._cuda.synchronize(self._stream)
            raise
        enqueue_ms = (time.perf_counter_ns() - started) / _NS_PER_MS
        self._cuda.record(end, self._stream)
        for spec in self.artifact.outputs:
            self._buffers[spec.name].download(self._stream)
        self._cuda.synchronize(self._stream)
        self.device_times = DeviceTimes(self._cuda.elapsed_ms(begin, end), enqueue_ms)
        if self._wants_graph and self._graph is None and not self._made.captures:
            # Not before the first run, in which TensorRT does what it does but once.
            self._graph = self._cuda.capture(self._stream, self._enqueue)
        return {spec.name: self._buffers[spec.name].host.copy() for spec in self.artifact.outputs}

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(stream_handle=self._stream):
            raise self._failed(EngineError(self._messages.said()))

    def time_layers(self, inputs: Mapping[str, np.ndarray], runs: int) -> LayerProfile:
        """Returns the times of the engine's layers; it is slower from then on."""
        from edgeq.runtimes.tensorrt.inspector import profile_session

        found = profile_session(self, dict(inputs), runs)
        layers = [LayerTime(each.name, each.kind, each.precision, each.ms or 0.0) for each in found.layers]
        return LayerProfile("TensorRT's profiler", found.profiled_runs, tuple(layers))

    def _engine_environment(self) -> dict[str, Any]:
        platform = self._platform
        return {
            "engine": f"{self.runtime} {platform.tensorrt}",
            "threads": None,
            "compute_precision": "f32" if self.artifact.precision == "fp32" else "f16",
            "gpu": platform.gpu,
            "compute_capability": platform.compute_capability,
            "cuda": f"{platform.cuda} through {self._cuda.name}",
            "power_mode": platform.power_mode,
            "zero_copy": self._zero_copy,
            "cuda_graph": self._wants_graph,
            "route": self._facts.route,
            "dla_core": self._facts.dla_core,
            "device_memory_bytes": self.device_memory_bytes,
            **({} if self._made.cache_state is None else {"compiled_kernels": self._made.cache_state}),
        }

    def close(self) -> None:
        """Frees the device's memory, in the order that TensorRT wants: context, engine, runtime."""
        if self._context is None:
            return
        with contextlib.suppress(EngineError):  # after a failure on the device every call fails; the first one was told
            self._free_buffers()
        self._context = None
        self._made.close()
        self._profiler = None
        self._engine = None
        self._runtime = None
        with contextlib.suppress(EngineError):
            self._cuda.destroy_stream(self._stream)

    def _free_buffers(self) -> None:
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers, self._shapes, self._graph = {}, {}, None


class TensorRtRtxSession(TensorRtSession):
    """An engine of TensorRT for RTX, on the GPU of a PC.

    It keeps the kernels that it compiles for the GPU in edgeq's cache folder, so that only a first process waits for
    them.
    """

    library = TENSORRT_RTX
    runtime = TENSORRT_RTX.runtime
    package = TENSORRT_RTX.module
    extra = "rtx"
    formats = (TENSORRT_RTX.engines,)


def session_of(engine: Artifact) -> type[TensorRtSession] | None:
    """Returns the class that runs an engine; `None` for a file that is no engine."""
    sessions = (TensorRtSession, TensorRtRtxSession)
    return next((session for session in sessions if engine.format in session.formats), None)


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(length for length in spec.shape if length is not None)
