"""Inputs and outputs of model files, as their engines report them: for files without a manifest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import EngineError, InputError
from edgeq.exporting.graphs.end_specs import end_specs
from edgeq.exporting.tensor_spec import Layout, TensorSpec
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import first_line
from edgeq.runtimes.litert import quiet_stderr

_TFLITE_IDENTIFIER = b"TFL3"
_CHANNELS = (1, 3, 4)
_ONNX_DTYPES = {"float": "float32", "double": "float64"}
_LOG_FATAL = 4

Specs = tuple[TensorSpec, ...]


def read_tflite_specs(path: Path) -> tuple[Specs, Specs]:
    """Returns the inputs and outputs of a TFLite file, as LiteRT tells of them."""
    with path.open("rb") as stream:
        identifier = stream.read(8)[4:]
    if not identifier.startswith(b"TFL"):
        raise InputError(f"{path}: is not a TFLite file (it begins with {identifier!r}, wanted {_TFLITE_IDENTIFIER!r})")
    engine = get_runtime("litert").import_engine()
    try:
        with quiet_stderr():
            interpreter = engine.Interpreter(str(path))
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError, SystemError) as error:
        raise _refused_tflite(path, str(error)) from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    layout = _layout([tuple(map(int, entry["shape"])) for entry in inputs], "NHWC")
    return _tflite_specs(path, inputs, layout), _tflite_specs(path, outputs, layout)


def _refused_tflite(path: Path, said: str) -> EngineError:
    """Returns the error of a TFLite file that the interpreter does not take, with what to do about it."""
    if "not a valid Flatbuffer" in said:
        return EngineError(f"{path}: is a TFLite file that was cut short or damaged; copy or download it again")
    if version := re.search(r"schema version (\d+) not equal to supported version (\d+)", said):
        return EngineError(
            f"{path}: is of schema version {version[1]}, and the installed LiteRT reads version {version[2]}; update "
            "it (pip install -U ai-edge-litert), or convert the model again"
        )
    if custom := re.search(r"unresolved custom op: ([^\s.]+)", said):
        return EngineError(
            f"{path}: needs the custom operator {custom[1]}, which LiteRT does not have; convert the model without it"
        )
    if flex := re.search(r"Select TensorFlow op.*Node number \d+ \((\w+)\)", said, re.DOTALL):
        return EngineError(
            f"{path}: needs TensorFlow's own operator {flex[1]}, which LiteRT does not have; convert the model to "
            "TFLite operators only"
        )
    return EngineError(f"{path}: litert cannot load it ({first_line(ValueError(said))}); convert the model again")


def _tflite_specs(path: Path, entries: Sequence[Mapping[str, Any]], layout: Layout) -> Specs:
    specs = []
    for entry in entries:
        dtype = np.dtype(entry["dtype"])
        scales = entry["quantization_parameters"]["scales"] if np.issubdtype(dtype, np.integer) else ()
        if len(scales) > 1:
            raise InputError(
                f"{path}: tensor {entry['name']!r} has a scale for each channel; wanted one scale for an input or "
                "output"
            )
        scale, zero_point = entry["quantization"]
        shape = tuple(map(int, entry["shape"]))
        name = str(entry["name"])
        specs.append(
            TensorSpec(name, str(dtype), shape, layout, float(scale), int(zero_point))
            if len(scales)
            else TensorSpec(name, str(dtype), shape, layout)
        )
    return tuple(specs)


def read_onnx_specs(path: Path) -> tuple[Specs, Specs]:
    """Returns the inputs and outputs of an ONNX file, as ONNX Runtime tells of them."""
    engine = get_runtime("onnxruntime").import_engine()
    options = engine.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = engine.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        if "Protobuf parsing failed" in str(error) or "No graph was found" in str(error):
            raise InputError(
                f"{path}: is not a valid ONNX model; it was cut short, or is another kind of file"
            ) from error
        raise EngineError(
            f"{path}: onnxruntime cannot load it ({first_line(error)}); convert the model again"
        ) from error
    nodes = session.get_inputs(), session.get_outputs()
    layout = _layout([_onnx_shape(node) for node in nodes[0]], "NCHW")
    inputs, outputs = _onnx_specs(path, nodes[0], layout), _onnx_specs(path, nodes[1], layout)
    if any(np.dtype(spec.dtype).kind in "iu" for spec in (*inputs, *outputs)):
        inputs, outputs = _with_grids(path, inputs, outputs)
    return inputs, outputs


def read_openvino_specs(path: Path) -> tuple[Specs, Specs]:
    """Returns the inputs and outputs of a file in OpenVINO's own format, as OpenVINO tells of them."""
    engine = get_runtime("openvino").import_engine()
    try:
        model = engine.Core().read_model(str(path))
    except RuntimeError as error:
        raise EngineError(
            f"{path}: openvino cannot load it ({first_line(error)}); its .bin file has to lie next to it"
        ) from error
    layout = _layout([_openvino_shape(port) for port in model.inputs], "NCHW")
    inputs, outputs = (
        tuple(
            TensorSpec(port.get_any_name(), str(port.get_element_type().to_dtype()), _openvino_shape(port), layout)
            for port in ports
        )
        for ports in (model.inputs, model.outputs)
    )
    return inputs, outputs


def _openvino_shape(port: Any) -> tuple[int | None, ...]:
    return tuple(None if axis.is_dynamic else int(axis.get_length()) for axis in port.get_partial_shape())


def _with_grids(path: Path, inputs: Specs, outputs: Specs) -> tuple[Specs, Specs]:
    """Returns the specs with what integers stand for, where the file says it; it was checked by the engine."""
    import onnx_ir as ir

    grids = {spec.name: (spec.scale, spec.zero_point) for side in end_specs(ir.load(path)) for spec in side}
    known = {name: grid for name, grid in grids.items() if grid[0] is not None and grid != (1.0, 0)}
    return tuple(
        tuple(
            dataclasses.replace(spec, scale=known[spec.name][0], zero_point=known[spec.name][1])
            if spec.name in known
            else spec
            for spec in side
        )
        for side in (inputs, outputs)
    )  # type: ignore[return-value]  # two sides in, two out


def _onnx_specs(path: Path, nodes: Sequence[Any], layout: Layout) -> Specs:
    specs = []
    for node in nodes:
        kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
        dtype = _ONNX_DTYPES.get(kind[1], kind[1]) if kind else node.type
        try:
            np.dtype(dtype)
        except (TypeError, ValueError):  # a sequence, a map, text
            raise InputError(f"{path}: {node.name!r} is a {node.type}; wanted a tensor of numbers") from None
        specs.append(TensorSpec(node.name, dtype, _onnx_shape(node), layout))
    return tuple(specs)


def _onnx_shape(node: Any) -> tuple[int | None, ...]:
    return tuple(length if isinstance(length, int) else None for length in node.shape)


def _layout(shapes: Sequence[tuple[int | None, ...]], usual: Layout) -> Layout:
    """Returns where a model has its channels, by the input that can be an image in one layout only."""
    for shape in shapes:
        first, last = (shape[1] in _CHANNELS, shape[3] in _CHANNELS) if len(shape) == 4 else (False, False)
        if first != last:
            return "NCHW" if first else "NHWC"
    return usual
