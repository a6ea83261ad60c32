"""What the objects of `tests/trt_double.py` do up to a built engine; `tests/trt_running.py` has the rest.

`"Class.method"` or `"Class.property"` -> function of the generator, the object itself and the arguments by name.
"""

from __future__ import annotations

import hashlib
import json
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BEHAVIOUR: dict[str, Callable[..., Any]] = {}

MAGIC = b"TRTDOUBLE"
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Folded away: no layer of an engine.
_FOLDED = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity", "Cast", "Constant"})
_ALGORITHMS = {
    "IInt8EntropyCalibrator2": "EntropyCalibration2",
    "IInt8MinMaxCalibrator": "MinMaxCalibration",
}
_TIMING_MAGIC = b"TIMING-"


@dataclass
class Faults:
    """What goes wrong on purpose.

    Attributes:
        unsupported: Operator types that the parser does not take.
        build_error: What the builder logs before it returns None.
        context_memory: Whether there is no memory for an execution context.
        no_int8: Whether the builder finds no INT8 kernel.
        refuse_cache: Whether the builder refuses every calibration cache.
        distort: Relative error of outputs, by the route the engine was built by.
        slower: Factor on the time of an engine, by its route.
        no_driver: Whether CUDA cannot be started: constructors then raise what pybind11 raises.
        free_outputs: Whether the shapes of outputs depend on the data.
        execution_error: What a context logs before it refuses to run.
        dla_cores: DLA cores of the board.
        refuse_kernels: Whether a cache of compiled kernels is one of another driver.
    """

    unsupported: frozenset[str] = frozenset()
    build_error: str | None = None
    context_memory: bool = False
    no_int8: bool = False
    refuse_cache: bool = False
    distort: dict[str, float] = field(default_factory=dict)
    slower: dict[str, float] = field(default_factory=dict)
    no_driver: bool = False
    free_outputs: bool = False
    execution_error: str | None = None
    dla_cores: int = 0
    refuse_kernels: bool = False


def does(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        BEHAVIOUR[name] = function
        return function

    return register


def start_cuda(g: Any, logger: Any) -> None:
    if g.faults.no_driver:
        g.log(logger, "ERROR", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")


# -- Builder and configuration


@does("Builder.__init__")
def _builder(g: Any, this: Any, logger: Any) -> None:
    start_cuda(g, logger)
    this.state["logger"] = logger


@does("Builder.num_DLA_cores")
def _dla_cores(g: Any, this: Any) -> int:
    return int(g.faults.dla_cores)


@does("Builder.create_network")
def _create_network(g: Any, this: Any, flags: int = 0) -> Any:
    known = g.contract["enums"]["NetworkDefinitionCreationFlag"]
    assert flags < 1 << (max(known.values()) + 1), f"flags {flags} of another version"
    strong = "STRONGLY_TYPED" in known and bool(flags >> known["STRONGLY_TYPED"] & 1)
    explicit = g.major > 8 or bool(flags >> known["EXPLICIT_BATCH"] & 1)
    return g.make(
        "INetworkDefinition", strong=strong or g.major >= 11, explicit=explicit, layers=[], inputs=[], outputs=[]
    )


@does("Builder.create_builder_config")
def _create_config(g: Any, this: Any) -> Any:
    flags = g.module.BuilderFlag
    return g.make("IBuilderConfig", set={flags.TF32}, profiles=[], pools={}, logger=this.state["logger"])


@does("Builder.create_optimization_profile")
def _create_profile(g: Any, this: Any) -> Any:
    return g.make("IOptimizationProfile", shapes={})


@does("IOptimizationProfile.set_shape")
def _set_shape(g: Any, this: Any, input: str, min: Any, opt: Any, max: Any) -> None:
    this.state["shapes"][input] = (tuple(min), tuple(opt), tuple(max))


@does("IBuilderConfig.set_flag")
def _set_flag(g: Any, this: Any, flag: Any) -> None:
    this.state["set"].add(flag)


@does("IBuilderConfig.clear_flag")
def _clear_flag(g: Any, this: Any, flag: Any) -> None:
    this.state["set"].discard(flag)


@does("IBuilderConfig.get_flag")
def _get_flag(g: Any, this: Any, flag: Any) -> bool:
    return flag in this.state["set"]


@does("IBuilderConfig.set_memory_pool_limit")
def _set_pool(g: Any, this: Any, pool: Any, pool_size: int) -> None:
    this.state["pools"][pool.name] = pool_size


@does("IBuilderConfig.add_optimization_profile")
def _add_profile(g: Any, this: Any, profile: Any) -> int:
    this.state["profiles"].append(profile)
    return len(this.state["profiles"]) - 1


@does("IBuilderConfig.set_compute_capability")
def _set_compute_capability(g: Any, this: Any, compute_capability: Any, index: int) -> bool:
    fits = index < int(this.state.get("num_compute_capabilities", 0))
    if fits:
        this.state.setdefault("capabilities", {})[index] = compute_capability.name
    return fits


@does("IBuilderConfig.set_calibration_profile")
def _set_calibration_profile(g: Any, this: Any, profile: Any) -> bool:
    this.state["calibration_profile"] = profile
    return True


@does("IBuilderConfig.create_timing_cache")
def _create_timing_cache(g: Any, this: Any, serialized_timing_cache: Any) -> Any:
    return g.make("ITimingCache", content=bytes(serialized_timing_cache))


@does("IBuilderConfig.set_timing_cache")
def _set_timing_cache(g: Any, this: Any, cache: Any, ignore_mismatch: bool) -> bool:
    content = cache.state["content"]
    if content and content != _TIMING_MAGIC + g.version.encode() and not ignore_mismatch:
        return False
    this.state["timing_cache"] = cache
    return True


@does("IBuilderConfig.get_timing_cache")
def _get_timing_cache(g: Any, this: Any) -> Any:
    return this.state["timing_cache"]


@does("ITimingCache.serialize")
def _serialize_timing(g: Any, this: Any) -> Any:
    return g.module.IHostMemory(this.state["content"])


# -- Network and parser


@does("INetworkDefinition.num_layers")
def _num_layers(g: Any, this: Any) -> int:
    return len(this.state["layers"])


@does("INetworkDefinition.num_inputs")
def _num_inputs(g: Any, this: Any) -> int:
    return len(this.state["inputs"])


@does("INetworkDefinition.get_layer")
def _get_layer(g: Any, this: Any, index: int) -> Any:
    return this.state["layers"][index]


@does("INetworkDefinition.get_input")
def _get_input(g: Any, this: Any, index: int) -> Any:
    return this.state["inputs"][index]


@does("ILayer.num_outputs")
def _num_outputs(g: Any, this: Any) -> int:
    return len(this.state["outputs"])


@does("ILayer.get_output")
def _get_output(g: Any, this: Any, index: int) -> Any:
    return this.state["outputs"][index]


@does("ILayer.type")
def _layer_type(g: Any, this: Any) -> Any:
    names = {"Conv": "CONVOLUTION", "Constant": "CONSTANT", "Concat": "CONCATENATION", "Shape": "SHAPE"}
    return g.make_enum("LayerType", names.get(this.state["node"].op_type, "ELEMENTWISE"))


@does("ILayer.set_output_type")
def _set_output_type(g: Any, this: Any, index: int, dtype: Any) -> None:
    this.state["output_types"] = this.state.get("output_types", {}) | {index: dtype}


@does("ITensor.set_dynamic_range")
def _set_dynamic_range(g: Any, this: Any, min: float, max: float) -> bool:
    g._deprecated("ITensor.set_dynamic_range")
    this.state["range"] = (min, max)
    return bool(min < max)


@does("OnnxParser.__init__")
def _parser(g: Any, this: Any, network: Any, logger: Any) -> None:
    this.state.update(network=network, logger=logger, errors=[])


@does("OnnxParser.num_errors")
def _num_errors(g: Any, this: Any) -> int:
    return len(this.state["errors"])


@does("OnnxParser.get_error")
def _get_error(g: Any, this: Any, index: int) -> Any:
    return this.state["errors"][index]


for _name in ("node", "node_name", "node_operator", "desc"):
    BEHAVIOUR[f"ParserError.{_name}"] = lambda g, this, name=_name: this.state[name]


@does("OnnxParser.parse")
def _parse(g: Any, this: Any, model: Any, path: str | None = None) -> bool:
    import onnx

    def fail(node: int, name: str, kind: str, desc: str) -> bool:
        error = g.make("ParserError", node=node, node_name=name, node_operator=kind, desc=desc)
        this.state["errors"].append(error)
        g.log(this.state["logger"], "ERROR", desc)
        return False

    network = this.state["network"]
    if not network.state["explicit"]:
        return fail(0, "", "", "the network must be created with EXPLICIT_BATCH")
    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(bytes(model))).graph
    except Exception:
        return fail(0, "", "", "Failed to parse the ONNX model")
    if not graph.node:  # protobuf skips what it does not know
        return fail(0, "", "", "Failed to parse the ONNX model")
    for index, node in enumerate(graph.node):
        if node.op_type in g.faults.unsupported or node.domain not in ("", "ai.onnx"):
            fail(index, node.name, node.op_type, f"No importer registered for op: {node.op_type}")
    if this.state["errors"]:
        return False
    onnx_types = {1: "FLOAT", 3: "INT8", 6: "INT32", 7: "INT64" if g.major > 8 else "INT32", 9: "BOOL", 10: "HALF"}
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}

    ends = {value.name for value in graph.output}

    def tensor(name: str) -> Any:
        kind = onnx_types.get(types.get(name, 1), "FLOAT")
        return g.make("ITensor", name=name, dtype=getattr(g.module.DataType, kind), is_network_output=name in ends)

    weights = {initializer.name for initializer in graph.initializer}
    network.state["inputs"] = [tensor(value.name) for value in graph.input if value.name not in weights]
    network.state["layers"] = [
        g.make(
            "ILayer",
            name=node.name or f"{node.op_type}_{index}",
            metadata=f"[ONNX Layer: {node.name}]" if g.major > 8 else "",
            node=node,
            outputs=[tensor(name) for name in node.output],
        )
        for index, node in enumerate(graph.node)
    ]
    network.state.update(onnx=bytes(model), graph=graph, parser=weakref.ref(this))
    return True


# -- The build


@does("Builder.build_serialized_network")
def _build(g: Any, this: Any, network: Any, config: Any, kernel_text: Any = None) -> Any:
    logger = this.state["logger"]
    try:
        header = _plan(g, network, config)
    except _BuildError as error:
        g.log(logger, "ERROR", str(error))
        return None
    if "timing_cache" in config.state:
        config.state["timing_cache"].state["content"] = _TIMING_MAGIC + g.version.encode()
    text = json.dumps(header).encode()
    content = text + b"\0" + network.state["onnx"]
    digest = hashlib.sha256(content).digest()
    return g.module.IHostMemory(MAGIC + digest + content)


class _BuildError(Exception):
    pass


def _plan(g: Any, network: Any, config: Any) -> dict[str, Any]:
    graph = network.state["graph"]
    assert network.state["parser"]() is not None, "the parser is gone, and the weights with it"
    if not network.state["layers"]:
        raise _BuildError("Network must have at least one output")
    free = [v.name for v in graph.input if any(d.dim_param or not d.dim_value for d in v.type.tensor_type.shape.dim)]
    if free and not config.state["profiles"]:
        raise _BuildError(f"Network has dynamic or shape inputs, but no optimization profile has been defined: {free}")
    explicit = any(node.op_type == "QuantizeLinear" for node in graph.node)
    weak = not network.state["strong"]
    if not weak and (g.flag(config, "INT8") or g.flag(config, "FP16")):
        raise _BuildError("Precision flags are not allowed in a strongly typed network")
    int8, half = g.flag(config, "INT8"), g.flag(config, "FP16")
    if explicit and weak and not int8:
        raise _BuildError("Int8 precision has been set for a layer or layer output, but int8 is not configured")
    _show_progress(g, config)
    if g.faults.build_error:
        raise _BuildError(g.faults.build_error)
    scales = {} if explicit or not int8 else _implicit_scales(g, network, config)
    if config.state.get("default_device_type") == g.module.DeviceType.DLA:
        if explicit and weak:
            raise _BuildError("DLA does not support Q/DQ")
        assert g.flag(config, "GPU_FALLBACK")
    layers = []
    for layer in network.state["layers"]:
        node = layer.state["node"]
        if node.op_type in _FOLDED:
            continue
        kind = "Half" if half or _is_half(layer) else "Float"
        constrained = layer.state.get("precision") is not None
        if constrained and layer.state["precision"] == g.module.DataType.FLOAT:
            inner = not layer.state["outputs"][0].state["is_network_output"]
            # Without a type of its own, what it hands on may be FP16 again.
            assert layer.state.get("output_types", {}) == ({0: g.module.DataType.FLOAT} if inner else {})
            kind = "Float"
        if constrained:
            assert g.flag(config, "OBEY_PRECISION_CONSTRAINTS")
        if not g.faults.no_int8 and not constrained and _runs_int8(node, graph, explicit, scales):
            kind = "Int8"
        layers.append({"name": layer.state["name"], "op": node.op_type, "kind": kind})
    route = "explicit" if explicit else "implicit" if int8 else "float"
    return {
        "version": g.version,
        "gpu": g.board.facts.gpu,
        "detailed": config.state.get("profiling_verbosity") == g.module.ProfilingVerbosity.DETAILED,
        "layers": layers,
        "route": route,
        "profiles": {
            name: shapes for profile in config.state["profiles"] for name, shapes in profile.state["shapes"].items()
        },
        "pools": config.state["pools"],
        "flags": sorted(flag.name for flag in config.state["set"]),
        "strong": not weak,
        "dla_core": config.state.get("DLA_core"),
        "capabilities": sorted(config.state.get("capabilities", {}).values()),
    }


def _is_half(layer: Any) -> bool:
    return bool(layer.state["outputs"]) and layer.state["outputs"][0].state["dtype"].name == "HALF"


def _runs_int8(node: Any, graph: Any, explicit: bool, scales: dict[str, float]) -> bool:
    if node.op_type not in WEIGHTED:
        return False
    if explicit:
        dequantized = {name for other in graph.node if other.op_type == "DequantizeLinear" for name in other.output}
        return node.input[0] in dequantized and node.input[1] in dequantized
    return node.input[0] in scales and node.output[0] in scales


def _show_progress(g: Any, config: Any) -> None:
    monitor = config.state.get("progress_monitor")
    if monitor is None:
        return
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Timing", "Building Engine", 3)
    going = all(monitor.step_complete("Timing", step) for step in range(3))
    monitor.phase_finish("Timing")
    going = going and all(monitor.step_complete("Building Engine", step) for step in range(2))
    monitor.phase_finish("Building Engine")
    if not going:
        raise _BuildError("The build was cancelled")


def _implicit_scales(g: Any, network: Any, config: Any) -> dict[str, float]:
    logger = config.state["logger"]
    names = [tensor.state["name"] for tensor in network.state["inputs"]]
    tensors = [t for layer in network.state["layers"] for t in layer.state["outputs"]] + network.state["inputs"]
    ranges = {t.state["name"]: t.state["range"][1] / 127 for t in tensors if "range" in t.state}
    calibrator = config.state.get("int8_calibrator")
    if calibrator is not None:
        ranges |= _calibrated(g, calibrator, names, [t.state["name"] for t in tensors], logger, network)
    if not ranges:
        raise _BuildError(
            "Calibration failure occurred with no scaling factors detected. This could be due to no int8 calibrator or "
            "insufficient custom scales for network layers."
        )
    for tensor in tensors:
        if tensor.state["name"] not in ranges:
            g.log(
                logger,
                "WARNING",
                f"Missing scale and zero-point for tensor {tensor.state['name']}, expect fall back to non-int8 "
                "implementation for any layer consuming or producing given tensor",
            )
    return ranges


def _swallowed(what: str, call: Callable[[], Any]) -> Any:
    """Calls back as pybind11's trampolines do: an exception is printed by C code, and is no more."""
    try:
        return call()
    except Exception as error:
        print(f"[ERROR] Exception caught in {what}(): {error}", file=sys.stderr)
        return None


def _calibrated(
    g: Any, calibrator: Any, names: list[str], tensors: list[str], logger: Any, network: Any
) -> dict[str, float]:
    algorithm = next(name for cls, name in _ALGORITHMS.items() if isinstance(calibrator, getattr(g.module, cls)))
    header = f"TRT-{_header_version(g.version)}-{algorithm}"
    cache = _swallowed("read_calibration_cache", calibrator.read_calibration_cache)
    if cache is not None and not isinstance(cache, bytes | bytearray | memoryview):
        cache = None
    lines = bytes(cache).decode().splitlines() if cache else []
    if lines and lines[0] == header and not g.faults.refuse_cache:
        pairs = (line.rpartition(": ") for line in lines[1:])
        return {name: float(np.uint32(int(bits, 16)).view(np.float32)) for name, _, bits in pairs}
    if lines:
        g.log(logger, "ERROR", "Calibration table does not match calibrator algorithm type.")
    size = calibrator.get_batch_size()
    seen: list[np.ndarray] = []
    while True:
        pointers = _swallowed("get_batch", lambda: calibrator.get_batch(list(names)))
        if not pointers:
            break
        assert len(pointers) == len(names), "TensorRT would read beyond the list"
        if not all(isinstance(pointer, int | np.uint64) for pointer in pointers):
            break
        shape = [d.dim_value or size for d in network.state["graph"].input[0].type.tensor_type.shape.dim]
        batch = g.board.at(int(pointers[0]), int(np.prod(shape)) * 4).view(np.float32).copy()
        assert shape[0] == size and np.isfinite(batch).all()
        seen.append(batch)
    if not seen:
        return {}
    amax = max(float(np.abs(batch).max()) for batch in seen)
    bits = int(np.float32(amax / 127).view(np.uint32))
    content = bytearray((header + "\n" + "".join(f"{name}: {bits:x}\n" for name in tensors)).encode())
    view = memoryview(content)
    _swallowed("write_calibration_cache", lambda: calibrator.write_calibration_cache(view))
    content[:] = b"\0" * len(content)  # the memory is valid only during the call
    view.release()
    return dict.fromkeys(tensors, amax / 127)


def _header_version(version: str) -> int:
    major, minor, patch = (int(number) for number in version.split(".")[:3])
    return major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch
