"""Model files of other tools: what their engine tells of them, and what a preset declares, as an `Artifact`.

A file that `edgeq export` wrote has a manifest and is opened by that alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact, Layout, Preprocessing, TensorSpec, manifest_path
from edgeq.files import sha256_file
from edgeq.inputs.presets import Labels, load_preset, parse_labels, require_channels
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import first_line
from edgeq.runtimes.litert import quiet_stderr

_TFLITE_IDENTIFIER = b"TFL3"
_CHANNELS = (1, 3, 4)
_ONNX_DTYPES = {"float": "float32", "double": "float64"}
_LOG_FATAL = 4

Specs = tuple[TensorSpec, ...]


def open_artifact(path: Path, preset: str | None = None, labels: Labels | None = None) -> Artifact:
    """Returns the artifact of a model file or a manifest, or for a file without one what can be known of it.

    Names, shapes, types and quantization of such a file's tensors come from its engine; its target, precision and
    everything else that only a manifest tells stay empty. The input's size replaces that of the preset.

    Args:
        path: A model file or a manifest.
        preset: How a file without a manifest is fed and decoded: a name or a TOML file.
        labels: Its class names, see `edgeq.inputs.presets.parse_labels`.

    Raises:
        InputError: the file is missing, broken or of an unknown format, a preset is given for a file with a manifest,
            or the preset or the labels cannot be used.
        MismatchError: the file is not the one that its manifest describes.
        MissingDependencyError: the engine that reads the file is not installed.
        EngineError: the engine refuses the file.
    """
    if path.suffix == ".json" or not path.is_file() or manifest_path(path).is_file():
        artifact = Artifact.load(path)
        if preset is not None or labels is not None:
            raise InputError(
                f"{path}: has a manifest that says how images are prepared and outputs are read; omit --preset and "
                "--labels"
            )
        return artifact
    artifact = _describe(path)
    if preset is None:
        return artifact
    channels, size = _input_image(artifact)
    declared = load_preset(preset, size)
    if channels is not None:
        require_channels(str(path), channels, preset, declared.preprocessing)
    return dataclasses.replace(
        artifact,
        inputs=tuple(_with_pixels(spec, declared.preprocessing) for spec in artifact.inputs),
        preprocessing=declared.preprocessing,
        postprocessing=declared.postprocessing,
        labels=declared.labels if labels is None else parse_labels(labels),
    )


class _Format(NamedTuple):
    """A format of files that tell of their own tensors."""

    name: str
    read: Callable[[Path], tuple[Specs, Specs]]


def _describe(path: Path) -> Artifact:
    found = _FORMATS.get(path.suffix)
    if found is None:
        raise InputError(
            f"{path}: has no manifest next to it ({manifest_path(path).name}), and its format does not say enough "
            f"without one ({', '.join(_FORMATS)}); write the file with `edgeq export`"
        )
    inputs, outputs = found.read(path)
    return Artifact(
        path=path,
        format=found.name,
        precision="",
        target="",
        inputs=inputs,
        outputs=outputs,
        preprocessing=None,
        digest=sha256_file(path),
    )


def _input_image(artifact: Artifact) -> tuple[int | None, tuple[int, int] | None]:
    """Returns how many channels a model's image has, and its height and width; `None` where they are free."""
    images = [spec for spec in artifact.inputs if len(spec.shape) == 4]
    if len(artifact.inputs) != 1 or not images:
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in artifact.inputs)
        raise InputError(
            f"{artifact.path}: has the inputs {shapes}; wanted a single image (N, C, H, W) or (N, H, W, C)"
        )
    (spec,) = images
    channels, height, width = spec.shape[1:] if spec.layout == "NCHW" else (spec.shape[3], *spec.shape[1:3])
    if channels not in (1, 3, None):
        raise InputError(f"{artifact.path}: its input {spec.name!r} has {channels} channels; wanted an image of 3 or 1")
    return channels, None if height is None or width is None else (height, width)


def _with_pixels(spec: TensorSpec, preprocessing: Preprocessing) -> TensorSpec:
    """Returns the input with scale 1 where it takes the bytes of pixels and pre-processing leaves them as they are."""
    takes_pixels = spec.dtype == "uint8" and spec.scale is None and preprocessing.value_range == (0, 255)
    return dataclasses.replace(spec, scale=1.0) if takes_pixels else spec


def _read_tflite(path: Path) -> tuple[Specs, Specs]:
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


def _read_onnx(path: Path) -> tuple[Specs, Specs]:
    engine = get_runtime("onnxruntime").import_engine()
    options = engine.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = engine.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "Protobuf parsing failed" in str(error) or "No graph was found" in str(error):
            raise InputError(
                f"{path}: is not a valid ONNX model; it was cut short, or is another kind of file"
            ) from error
        raise EngineError(
            f"{path}: onnxruntime cannot load it ({first_line(error)}); convert the model again"
        ) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    layout = _layout([_onnx_shape(node) for node in inputs], "NCHW")
    return _onnx_specs(path, inputs, layout), _onnx_specs(path, outputs, layout)


def _onnx_specs(path: Path, nodes: Sequence[Any], layout: Layout) -> Specs:
    specs = []
    for node in nodes:
        kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
        dtype = _ONNX_DTYPES.get(kind[1], kind[1]) if kind else node.type
        try:
            np.dtype(dtype)
        except TypeError:
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


_FORMATS = {".onnx": _Format("onnx", _read_onnx), ".tflite": _Format("tflite", _read_tflite)}
