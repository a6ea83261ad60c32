"""What the objects of `tests/trt_double.py` do with a built engine: load, run, profile and inspect it."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.trt_behaviour import BEHAVIOUR, MAGIC, WEIGHTED, does, start_cuda

__all__ = ["BEHAVIOUR"]

# Time of a kernel by its precision.
_KERNELS = b"KERNELS-"
_MS = {"Int8": 0.5, "Half": 1.0, "Float": 2.0}


@does("Runtime.__init__")
def _runtime(g: Any, this: Any, logger: Any) -> None:
    start_cuda(g, logger)
    this.state["logger"] = logger


@does("Runtime.deserialize_cuda_engine")
def _deserialize(g: Any, this: Any, serialized_engine: Any) -> Any:
    plan = bytes(serialized_engine)
    digest, content = plan[len(MAGIC) : len(MAGIC) + 32], plan[len(MAGIC) + 32 :]
    if not plan.startswith(MAGIC) or hashlib.sha256(content).digest() != digest:
        g.log(this.state["logger"], "ERROR", "Serialization assertion plan->header.size == blobSize failed.")
        return None
    text, _, onnx = content.partition(b"\0")
    header = json.loads(text)
    if header["version"] != g.version:
        g.log(
            this.state["logger"],
            "ERROR",
            "The engine plan file is not compatible with this version of TensorRT, expecting library version "
            f"{g.version} got {header['version']}, please rebuild.",
        )
        return None
    here = f"SM{g.board.facts.compute_capability.replace('.', '')}"
    if header["capabilities"] and here not in header["capabilities"]:
        g.log(this.state["logger"], "ERROR", f"The engine was built for {header['capabilities']}")
        return None
    if header["dla_core"] is not None:
        assert this.state.get("DLA_core") == header["dla_core"]
    return g.make("ICudaEngine", header=header, session=_session(onnx), logger=this.state["logger"])


def _session(onnx: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _nodes(this: Any) -> list[Any]:
    session = this.state["session"]
    return [*session.get_inputs(), *session.get_outputs()]


def _node(this: Any, name: str) -> Any:
    return next(node for node in _nodes(this) if node.name == name)


@does("ICudaEngine.num_io_tensors")
def _num_io(g: Any, this: Any) -> int:
    return len(_nodes(this))


@does("ICudaEngine.get_tensor_name")
def _tensor_name(g: Any, this: Any, index: int) -> str:
    return str(_nodes(this)[index].name)


@does("ICudaEngine.get_tensor_mode")
def _tensor_mode(g: Any, this: Any, name: str) -> Any:
    inputs = [node.name for node in this.state["session"].get_inputs()]
    return g.module.TensorIOMode.INPUT if name in inputs else g.module.TensorIOMode.OUTPUT


@does("ICudaEngine.get_tensor_dtype")
def _tensor_dtype(g: Any, this: Any, name: str, profile_index: int = 0) -> Any:
    names = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(int32)": "INT32"}
    return getattr(g.module.DataType, names[_node(this, name).type])


@does("ICudaEngine.get_tensor_location")
def _tensor_location(g: Any, this: Any, name: str) -> Any:
    return g.module.TensorLocation.DEVICE


BEHAVIOUR["ICudaEngine.device_memory_size_v2"] = lambda g, this: 123_456
BEHAVIOUR["ICudaEngine.device_memory_size"] = lambda g, this: (g._deprecated("device_memory_size"), 123_456)[1]


@does("ICudaEngine.create_execution_context")
def _create_context(g: Any, this: Any, strategy: Any = None, runtime_config: Any = None) -> Any:
    if g.faults.context_memory:
        g.log(this.state["logger"], "ERROR", "Requested amount of GPU memory could not be allocated: out of memory")
        return None
    config = runtime_config.state if runtime_config is not None else {}
    cache = config.get("cache")
    if cache is not None:
        g.board.compiled += not cache.state["content"]
        cache.state["content"] = _KERNELS + str(this.state["header"]["capabilities"]).encode()
    strategy = config.get("cuda_graph_strategy")
    return g.make(
        "IExecutionContext",
        engine=this,
        shapes={},
        addresses={},
        enqueue_emits_profile=True,
        captures=strategy is not None and strategy.name == "WHOLE_GRAPH_CAPTURE",
        config=weakref.ref(runtime_config) if runtime_config is not None else None,
    )


@does("ICudaEngine.create_runtime_config")
def _create_runtime_config(g: Any, this: Any) -> Any:
    return g.make("IRuntimeConfig")


@does("IRuntimeConfig.create_runtime_cache")
def _create_runtime_cache(g: Any, this: Any) -> Any:
    return g.make("IRuntimeCache", content=b"")


@does("IRuntimeConfig.set_runtime_cache")
def _set_runtime_cache(g: Any, this: Any, cache: Any) -> bool:
    this.state["cache"] = cache
    return True


@does("IRuntimeCache.deserialize")
def _load_runtime_cache(g: Any, this: Any, blob: Any) -> bool:
    fits = bytes(blob).startswith(_KERNELS) and not g.faults.refuse_kernels
    if fits:
        this.state["content"] = bytes(blob)
    return fits


@does("IRuntimeCache.serialize")
def _save_runtime_cache(g: Any, this: Any) -> Any:
    return g.module.IHostMemory(this.state["content"])


@does("IExecutionContext.set_input_shape")
def _set_input_shape(g: Any, this: Any, name: str, shape: Any) -> bool:
    engine = this.state["engine"]
    static = _node(engine, name).shape
    low, _, high = engine.state["header"]["profiles"].get(name, (static, static, static))
    fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
    if fits:
        this.state["shapes"][name] = tuple(shape)
    else:
        g.log(engine.state["logger"], "ERROR", f"Set dimension {shape} for tensor {name} does not satisfy any profile")
    return fits


@does("IExecutionContext.infer_shapes")
def _infer_shapes(g: Any, this: Any) -> list[str]:
    inputs = this.state["engine"].state["session"].get_inputs()
    return [node.name for node in inputs if node.name not in this.state["shapes"]]


@does("IExecutionContext.get_tensor_shape")
def _context_shape(g: Any, this: Any, name: str) -> Sequence[int]:
    shapes = this.state["shapes"]
    if name in shapes:
        return tuple(shapes[name])
    if g.faults.free_outputs:
        return tuple(-1 for _ in _node(this.state["engine"], name).shape)
    batch = next(iter(shapes.values()))[0]
    return tuple(length if isinstance(length, int) else batch for length in _node(this.state["engine"], name).shape)


@does("IExecutionContext.set_tensor_address")
def _set_address(g: Any, this: Any, name: str, memory: int) -> bool:
    this.state["addresses"][name] = memory
    return memory != 0


@does("IExecutionContext.execute_async_v3")
def _execute(g: Any, this: Any, stream_handle: int) -> bool:
    engine = this.state["engine"]
    header, session = engine.state["header"], engine.state["session"]
    addresses = this.state["addresses"]
    assert this.state["config"] is None or this.state["config"]() is not None, "the runtime configuration is gone"
    g.board.launches += this.state["captures"]
    missing = [node.name for node in _nodes(engine) if node.name not in addresses]
    if missing:
        g.log(engine.state["logger"], "ERROR", f"Address is not set for tensor {missing[0]}")
        return False
    if g.faults.execution_error:
        g.log(engine.state["logger"], "ERROR", g.faults.execution_error)
        return False
    numpy_types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}

    def memory(node: Any) -> Any:
        shape, dtype = _context_shape(g, this, node.name), np.dtype(numpy_types[node.type])
        return g.board.at(addresses[node.name], int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape)

    def work() -> None:
        outputs = session.run(None, {node.name: memory(node).copy() for node in session.get_inputs()})
        error = g.faults.distort.get(header["route"], 0.0)
        for node, output in zip(session.get_outputs(), outputs, strict=True):
            sign = np.where(np.arange(output.size) % 2, 1, -1).reshape(output.shape)
            np.copyto(memory(node), (output + error * np.abs(output).max(initial=0) * sign).astype(output.dtype))
        profiler = this.state.get("profiler")
        for name, _, ms in _timed(header, g.faults):
            g.board.clock_ms += ms
            if profiler is not None and this.state["enqueue_emits_profile"]:
                profiler.report_layer_time(name, ms)

    g.board.enqueue(stream_handle, work)
    if this.state.get("profiler") is not None:
        g.board.flush(stream_handle)
    return True


def _timed(header: dict[str, Any], faults: Any) -> Iterator[tuple[str, dict[str, Any] | None, float]]:
    """Yields name, layer and time of each kernel; a Reformat stands where types meet."""
    factor = faults.slower.get(header["route"], 1.0)
    before = "Float"
    for layer in header["layers"]:
        if layer["kind"] != before and layer["op"] in WEIGHTED:
            yield f"Reformatting CopyNode for Input Tensor 0 to {layer['name']}", None, 0.25 * factor
            before = layer["kind"]
        yield layer["name"], layer, _MS[layer["kind"]] * factor


# -- Inspector


@does("ICudaEngine.create_engine_inspector")
def _create_inspector(g: Any, this: Any) -> Any:
    return g.make("EngineInspector", engine=this)


@does("EngineInspector.get_engine_information")
def _information(g: Any, this: Any, format: Any) -> str:
    header = this.state["engine"].state["header"]
    if format != g.module.LayerInformationFormat.JSON:
        return "Layers:"
    kernels = list(_timed(header, g.faults))
    if not header["detailed"]:
        return json.dumps({"Layers": [name for name, _, _ in kernels], "Bindings": []})
    known = not header["profiles"] or this.state.get("execution_context") is not None
    layers = []
    for name, layer, _ in kernels:
        kind = layer["kind"] if layer else "Half"
        text = f"Thirty-two wide channel vectorized row major {kind} format" if known else "N/A due to dynamic shapes"
        entry: dict[str, Any] = {
            "Name": name,
            "LayerType": "Reformat"
            if layer is None
            else "CaskConvolution"
            if layer["op"] in WEIGHTED
            else "PointWiseV2",
            "Inputs": [{"Name": "in", "Dimensions": [1], "Format/Datatype": text}],
            "Outputs": [{"Name": "out", "Dimensions": [1], "Format/Datatype": text}],
        }
        if layer and layer["op"] in WEIGHTED:
            entry["Weights"] = {"Type": kind, "Count": 100}
        layers.append(entry)
    return json.dumps({"Layers": layers, "Bindings": []})


# -- Exchanged weights, and what a GPU takes


@does("Runtime.get_engine_validity")
def _validity(g: Any, this: Any, buffer: Any) -> tuple[Any, int]:
    here = f"SM{g.board.facts.compute_capability.replace('.', '')}"
    header = json.loads(bytes(buffer)[len(MAGIC) + 32 :].partition(b"\0")[0])
    kinds = g.module.EngineValidity
    return (kinds.VALID, 0) if here in header["capabilities"] else (kinds.INVALID, 2)


@does("Refitter.__init__")
def _refitter(g: Any, this: Any, engine: Any, logger: Any) -> None:
    this.state["engine"] = engine


@does("OnnxParserRefitter.__init__")
def _parser_refitter(g: Any, this: Any, refitter: Any, logger: Any) -> None:
    this.state["refitter"] = refitter


@does("OnnxParserRefitter.refit_from_bytes")
def _refit_from_bytes(g: Any, this: Any, model: Any, path: Any = None) -> bool:
    this.state["refitter"].state["model"] = bytes(model)
    return True


@does("Refitter.refit_cuda_engine")
def _refit(g: Any, this: Any) -> bool:
    engine = this.state["engine"]
    allowed = "REFIT" in engine.state["header"]["flags"]
    if allowed:
        engine.state["session"] = _session(this.state["model"])
    return allowed
