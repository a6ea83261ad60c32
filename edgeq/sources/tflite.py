"""A model as a float32 TFLite file: one that was given, or one converted in a process of its own.

The converter takes gigabytes and may die; here that costs one line. The process is `python -m edgeq.sources.tflite`:
one JSON object on stdin says what to convert, its stages come back on stdout line by line, and an error as the last
line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
import numpy as np

import edgeq.errors
from edgeq.boundary import parse_json
from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.exporting.ends import require_same_ends
from edgeq.exporting.graphs.graph import read_onnx, save_onnx
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.prepared_inputs import PreparedInputs
from edgeq.exporting.tensor_spec import Layout, TensorSpec
from edgeq.exporting.tflite.graph import Graph, read_graph, rename_tensors, require_builtin
from edgeq.exporting.tflite.layers import QUANTIZER_SUFFIXES
from edgeq.exporting.tflite.writer import TfliteModel, tensor_spec
from edgeq.files import write_bytes
from edgeq.inputs.presets import Preset, for_input, load_preset, parse_labels, require_channels
from edgeq.models.names import is_zoo_name
from edgeq.progress import progress_bar
from edgeq.runtimes.child import safe_environment
from edgeq.sources.file_metadata import tflite_metadata
from edgeq.sources.recognition import ModelFacts, recognised_preset, with_file_names
from edgeq.sources.tflite_constants import fold_computed_constants

if TYPE_CHECKING:
    from edgeq.sources.model import ModelRequest, OpenedModel

_STAGES = 13
"""How many stages litert-torch reports."""

_DONE = re.compile(rb"\[ DONE\]")
_FAILED = "edgeq failed: "
_KILLED = -9
_STDERR_CHARACTERS = 300
_ERRORS: dict[str, type[EdgeqError]] = {
    name: error
    for name, error in vars(edgeq.errors).items()
    if isinstance(error, type) and issubclass(error, EdgeqError)
}


def convert(request: ModelRequest, opened: OpenedModel) -> TfliteModel:
    """Returns a model as a float32 TFLite file.

    A torch model that a new process can load is converted from torch; an ONNX file, and a module that is only in this
    process's memory, from its graph, operator by operator.

    Raises:
        ModelError: the model has an operator that cannot be converted, or the converter died or ran out of memory.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    graph, model = opened.model.graph, opened.model
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        converted = Path(folder) / "model.tflite"
        from_torch = opened.module is not None and request.module is None
        onnx = None if from_torch else Path(folder) / "model.onnx"
        if onnx is not None:
            save_onnx(graph, onnx)
        job = Conversion(
            name=model.name,
            reference=request.reference,
            weights=None if request.weights is None else str(request.weights),
            onnx=None if onnx is None else str(onnx),
            shape=_example_shape(model),
            layout=model.layout,
            input=str(graph.graph.inputs[0].name),
            takes_bytes=model.input.dtype == "uint8",
            outputs=[str(value.name) for value in graph.graph.outputs],
            out=str(converted),
        )
        _run(job)
        content = converted.read_bytes()
    file = TfliteModel(
        model.name, content, model.preprocessing, model.postprocessing, model.labels, source_digest=model.digest
    )
    inputs, outputs = (_as_tflite(specs) for specs in model.ends)
    count, *image = _example_shape(model)
    if model.preprocessing.takes_images:
        channels, *sides = image
        inputs = [dataclasses.replace(spec, shape=(count, *sides, channels)) for spec in inputs]
    require_same_ends(f"{model.name}.tflite", ((file.input,), file.outputs), (inputs, outputs))
    return file


def _as_tflite(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Returns what a TFLite file can have of inputs or outputs: real numbers are float32, and images channel-last."""
    found = []
    for spec in specs:
        dtype = "float32" if np.dtype(spec.dtype).kind == "f" else spec.dtype
        shape = (spec.shape[0], *spec.shape[2:], spec.shape[1]) if len(spec.shape) == 4 else spec.shape
        found.append(dataclasses.replace(spec, dtype=dtype, shape=shape))
    return found


def _example_shape(model: FloatModel) -> list[int]:
    """Returns the shape of what the converted module takes: a batch `(N, C, H, W)`, or prepared arrays as they are."""
    image = model.preprocessing.input_shape
    lengths = [length or 1 for length in model.input.shape]
    return [math.prod(lengths) // math.prod(image), *image] if model.preprocessing.takes_images else lengths


def open_tflite(request: ModelRequest) -> TfliteModel:
    """Returns the model of a float `.tflite` file, every tensor with a name of its own.

    Raises:
        InputError: the file is missing, damaged or not TFLite, or no preset says how it is fed.
        ModelError: it is quantized already, has custom operators, or takes something else than one image.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    path = Path(request.reference)
    if request.weights is not None:
        raise InputError(f"`weights` {request.weights}: a TFLite file holds its weights already; omit `weights`")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a TFLite model") from error
    graph = read_graph(content, path.name)
    require_builtin(graph, path.name)
    shapes = [graph.tensors[index].shape for index in graph.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] not in (1, 3):
        raise ModelError(f"{path.name}: takes inputs of the shapes {shapes}; edgeq needs one image (1, H, W, 3 or 1)")
    quantized = next((tensor for tensor in graph.tensors if tensor.scales), None)
    if quantized is not None:
        raise ModelError(
            f"{path.name}: is quantized already (tensor {quantized.name!r} is {quantized.dtype}); export takes float "
            "files, edgeq bench and edgeq eval take this one as it is"
        )
    spec = tensor_spec(graph.tensors[graph.inputs[0]])
    channels, size = shapes[0][3], (shapes[0][1], shapes[0][2])
    metadata = tflite_metadata(path)
    name = request.stated_preset
    if name is None:
        outputs = [tensor_spec(graph.tensors[index]) for index in graph.outputs]
        facts = ModelFacts.of(path.name, dataclasses.replace(spec, layout="NHWC"), outputs, metadata)
        preset = recognised_preset(facts, size, "export", request.labels)
    else:
        preset = with_file_names(name, load_preset(name, size), metadata)
        require_channels(path.name, channels, name, preset.preprocessing)
    if preset is None:
        preset = Preset(PreparedInputs(*size, channel_order="gray" if channels == 1 else "rgb"), None, ())
    else:
        preset = dataclasses.replace(preset, preprocessing=for_input(spec, preset.preprocessing))
    labels = preset.labels if request.labels is None else parse_labels(request.labels)
    named = rename_tensors(fold_computed_constants(content, path.name), _unique_names(graph), path.name)
    return TfliteModel(path.stem, named, preset.preprocessing, preset.postprocessing, labels)


def _unique_names(graph: Graph) -> dict[int, str]:
    """Returns new names for the tensors that share theirs, have none, or one that the quantizer will give to others.

    The ends keep theirs.
    """
    ends = {*graph.inputs, *graph.outputs}
    taken = {graph.tensors[index].name for index in ends}
    derived = {name.removesuffix(suffix) for name in taken for suffix in QUANTIZER_SUFFIXES if name.endswith(suffix)}
    names = {}
    for tensor in graph.tensors:
        if tensor.index in ends:
            continue
        name = tensor.name or "tensor"
        if name in taken | derived or name.endswith(QUANTIZER_SUFFIXES):
            name = names[tensor.index] = f"{name}_{tensor.index}"
        taken.add(name)
    return names


class Conversion(msgspec.Struct):
    """What the converter is told: a model of the zoo, of a user, or an ONNX file, and where to write it."""

    name: str
    reference: str
    weights: str | None
    onnx: str | None
    shape: list[int]
    layout: Layout
    input: str
    takes_bytes: bool
    outputs: list[str]
    out: str


class _Failure(msgspec.Struct):
    """The last line of a converter that gave up."""

    error: str
    message: str


def _run(job: Conversion) -> None:
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            [sys.executable, "-m", "edgeq.sources.tflite"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=safe_environment(),
        ) as process:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
            try:
                last = _follow(process, job)
            except BaseException:
                process.kill()
                raise
        if last.startswith(_FAILED):
            answer = parse_json(
                last.removeprefix(_FAILED).encode(),
                _Failure,
                source=f"{job.name}: the TFLite converter",
                kind="an error",
                error=ModelError,
            )
            raise _restored(_ERRORS.get(answer.error, ModelError), answer.message)
        if process.returncode == _KILLED:
            raise ModelError(
                f"{job.name}: the TFLite converter was killed, most likely for want of memory; it needs about 3 GB "
                "for a ResNet-50 detector, free some or take a smaller `size`"
            )
        if process.returncode:
            log.seek(0)
            words = log.read().decode(errors="replace").strip()[-_STDERR_CHARACTERS:]
            raise ModelError(
                f"{job.name}: the TFLite converter died (exit code {process.returncode}); it last wrote: "
                + " | ".join(words.splitlines())
            )


def _follow(process: subprocess.Popen[bytes], job: Conversion) -> str:
    """Returns the last line of the process after moving the progress bar on with each stage."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - both are pipes
    with contextlib.suppress(BrokenPipeError):  # it died; its exit code says so
        process.stdin.write(msgspec.json.encode(job))
        process.stdin.close()
    last = b""
    with progress_bar(_STAGES, "convert", unit="%") as advance:
        for line in process.stdout:
            last = line.strip() or last
            if _DONE.search(line):
                advance(1)
    return last.decode(errors="replace")


def _restored(error: type[EdgeqError], message: str) -> EdgeqError:
    """Returns an error of a class whose own constructor would ask for more than the message."""
    restored = error.__new__(error, message)
    restored.args = (message,)
    return restored


def main() -> NoReturn:
    """Converts what stdin says."""
    # Of a process that lives for one conversion, collecting what it no longer needs takes up to a fifth of the time.
    gc.disable()
    job = parse_json(sys.stdin.buffer.read(), Conversion, source="stdin", kind="what to convert")
    try:
        write_bytes(Path(job.out), _converted(job))
    except EdgeqError as error:
        print(_FAILED + json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
        sys.exit(1)
    sys.exit(0)


def _converted(job: Conversion) -> bytes:
    import torch

    from edgeq.exporting.tflite.convert import convert_module
    from edgeq.exporting.tflite.onnx_module import onnx_to_torch
    from edgeq.models.outputs import tensor_outputs
    from edgeq.models.zoo import load_model

    example = torch.zeros(*job.shape, dtype=torch.uint8 if job.takes_bytes else torch.float32)
    if job.onnx is not None:
        module = onnx_to_torch(read_onnx(Path(job.onnx)), job.layout)
    else:
        module = load_model(job.reference, None if job.weights is None else Path(job.weights))
        if not is_zoo_name(job.reference):
            module = tensor_outputs(module, example)
    return convert_module(module, example, job.outputs, job.name, job.input)


if __name__ == "__main__":
    main()
