"""Triton Inference Server: `config.pbtxt` of a model, in protobuf's text format (`model_config.proto`).

A request carries the model's input as its manifest describes it. Triton prepares no images: how they are prepared and
how outputs are read stands in the parameters `edgeq_preprocessing` and `edgeq_postprocessing`, as JSON, for clients.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from edgeq.deploying.base import DeployJob
from edgeq.deploying.packed import MAX_BATCH, Packed
from edgeq.deploying.quoting import pbtxt_string
from edgeq.deploying.shell import Script
from edgeq.errors import InputError
from edgeq.exporting.tensor_spec import TensorSpec

PLAN = "model.plan"
"""Name of the engine that a Jetson's build scripts leave next to the ONNX file."""

BACKENDS = {"tensorrt": "tensorrt", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""Runtime -> Triton's backend that runs its files. LiteRT has none."""

_TYPES = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64",
}  # fmt: skip


def served(job: DeployJob) -> tuple[Packed, ...]:
    """Returns the models that Triton has a backend for."""
    return tuple(model for model in job.models if model.runtime in BACKENDS)


def configs(job: DeployJob) -> dict[str, str]:
    """Returns path -> text of the configuration of every model that Triton serves."""
    return {f"models/{model.name}/config.pbtxt": config(model) for model in served(job)}


def config(model: Packed) -> str:
    """Returns the `config.pbtxt` of a model.

    With a free batch axis Triton collects up to `MAX_BATCH` requests; otherwise requests carry the whole shape.

    Raises:
        InputError: Triton has no name for the type of a tensor.
    """
    on_gpu = model.runtime == "tensorrt"
    lines = [
        f"name: {pbtxt_string(model.name)}",
        f"backend: {pbtxt_string(BACKENDS[model.runtime])}",
        f"default_model_filename: {pbtxt_string(PLAN if on_gpu else model.file)}",
        f"max_batch_size: {MAX_BATCH if model.batch_is_free else 0}",
    ]
    for spec in model.artifact.inputs:
        lines += _tensor("input", model, spec)
    for spec in model.artifact.outputs:
        lines += _tensor("output", model, spec)
    lines.append(f"instance_group [ {{ kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} count: 1 }} ]")
    if model.batch_is_free:
        lines.append("dynamic_batching { }")
    for key, value in _declared(model):
        lines.append(f"parameters [ {{ key: {pbtxt_string(key)} value: {{ string_value: {pbtxt_string(value)} }} }} ]")
    return "\n".join(lines) + "\n"


def serve_script(job: DeployJob) -> str:
    """Returns `serve_triton.sh`, the `docker run` of NVIDIA's image; ports answer on this machine alone."""
    on_gpu = any(model.runtime == "tensorrt" for model in served(job))
    script = Script(
        "Serves the models with Triton: HTTP on 8000, gRPC on 8001, metrics on 8002.",
        ["./serve_triton.sh IMAGE      IMAGE: a tritonserver image, see README.md"],
    )
    script.require_argument("IMAGE", "a tritonserver image; README.md says which")
    if on_gpu:
        for model in served(job):
            script.require_file(f"{model.folder}/{PLAN}", "build it first: ./build.sh or ./build_edgeq.sh")
    script.require_program("docker", "install Docker", "")
    gpu = "--runtime nvidia " if on_gpu else ""
    script.add(
        f"exec docker run --rm {gpu}-p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 \\",
        '    -v "$here:/deploy:ro" "$1" tritonserver --model-repository=/deploy/models',
    )
    return script.text()


def _tensor(role: str, model: Packed, spec: TensorSpec) -> Iterator[str]:
    kind = _TYPES.get(spec.dtype)
    if kind is None:
        raise InputError(f"{model.artifact.path}: Triton has no type for {spec.name!r} of {spec.dtype}")
    dims: Sequence[int | None] = spec.shape[1:] if model.batch_is_free else spec.shape
    text = ", ".join(str(-1 if length is None else length) for length in dims)
    labels = ""
    if role == "output" and model.labels_path and _scores_each_label(model, spec):
        labels = f" label_filename: {pbtxt_string(PurePosixPath(model.labels_path).name)}"
    yield f"{role} [ {{ name: {pbtxt_string(spec.name)} data_type: {kind} dims: [ {text} ]{labels} }} ]"


def _scores_each_label(model: Packed, spec: TensorSpec) -> bool:
    """Returns whether an output holds a score for each label of an image, which a server can then name."""
    return len(spec.shape) == 2 and spec.shape[1] == len(model.artifact.labels)


def _declared(model: Packed) -> Iterator[tuple[str, str]]:
    declared: dict[str, Any] = {
        "edgeq_preprocessing": model.artifact.preprocessing,
        "edgeq_postprocessing": model.artifact.postprocessing,
    }
    for key, found in declared.items():
        if found is not None:
            yield key, json.dumps(dataclasses.asdict(found), sort_keys=True)
