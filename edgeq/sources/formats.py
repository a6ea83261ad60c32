"""File formats: what each is called, what it is written in, and who opens, reads, observes, runs and writes it.

A format is one entry of `FORMATS`, or an installed package's entry point in the group `edgeq.formats` that leads to a
`FileFormat`. Both are written in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeq.errors import InputError
from edgeq.registry import load_entry, load_object, registered
from edgeq.schemes import LOW_BITS, STATIC_PRECISIONS


@dataclass(frozen=True)
class FileFormat:
    """A format of files. Functions are named as `package.module:function`.

    Attributes:
        name: As the parameter `format` and manifests have it.
        suffix: Of its files, with the dot.
        precisions: What a model is written in.
        runtime: Name of the runtime that files are compared with their model in.
        read: Returns what a file holds by itself, `(path) -> found`: of a model without a manifest its inputs and
            outputs, both as `edgeq.exporting.tensor_spec.TensorSpec`; of ranges a `CalibrationCache`.
        write: Writes one file and its manifest, `(job) -> Artifact` with an `edgeq.exporting.jobs.FileJob`; for ranges,
            which come with another file, an `edgeq.exporting.jobs.Companion`.
        effects: Parameter of an export -> the precisions whose files it changes. A parameter that changes no file that
            is asked for is refused.
        open: Opens a float file of the format, `(request) -> model`, if an export can start from one; ONNX files are
            opened with torch models, by `edgeq.sources.model`.
        convert: Returns what files are made from, `(request, opened) -> model`, where that is not the float graph.
        observe: Hands out activations, `(model, tensors, threads) -> (input (1, C, H, W) -> name -> activations)`, for
            formats whose files are made from something of their own; the others have those of the graph.
        holds: `model`, or `ranges` that accompany a model's file.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    runtime: str
    read: str
    write: str
    effects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    open: str | None = None
    convert: str | None = None
    observe: str | None = None
    holds: Literal["model", "ranges"] = "model"

    @property
    def has_own_form(self) -> bool:
        """Whether its files are made from something else than the float graph."""
        return self.convert is not None

    def function(self, role: Literal["read", "write", "open", "convert", "observe"]) -> Any:
        """Returns the function of a role.

        Raises:
            InputError: it cannot be loaded, or the format has none.
        """
        reference = getattr(self, role)
        if reference is None:
            raise InputError(f"format {self.name!r}: has no function to {role} it")
        return load_object(f"function to {role} the format {self.name}", reference)


_QUANTIZED = frozenset({*STATIC_PRECISIONS, "dynamic", "fp8", "fp4", "w4a8", *LOW_BITS})
_STATIC = frozenset(STATIC_PRECISIONS)

ONNX = FileFormat(
    name="onnx",
    suffix=".onnx",
    precisions=("fp32", "fp16", "int8", "w4a8", "dynamic", "fp8", "fp4", *LOW_BITS),
    runtime="onnxruntime",
    read="edgeq.sources.engine_specs:read_onnx_specs",
    write="edgeq.exporting.onnx.files:write",
    effects={
        "keep": _QUANTIZED,
        "vit_plan": _QUANTIZED,
        "rescale": frozenset({"fp32", "fp16", *_QUANTIZED}),
        "int8_deconv": frozenset({"int8", "w4a8", "fp8"}),
        "isa": frozenset({"int8", "w4a8", "dynamic"}),
        "rounding": frozenset({"int8", "w4a8"}),
        "finetune": frozenset({"int8", "w4a8"}),
        "weight_method": frozenset(LOW_BITS),
        "group_size": frozenset(LOW_BITS),
    },
    observe="edgeq.runtimes.observer:observe_graph",
)

TFLITE = FileFormat(
    name="tflite",
    suffix=".tflite",
    precisions=("fp32", "fp16", "int8", "int16x8", "dynamic", "w4"),
    runtime="litert",
    read="edgeq.sources.engine_specs:read_tflite_specs",
    write="edgeq.exporting.tflite.writer:write_file",
    effects={
        "keep": _QUANTIZED,
        "vit_plan": _QUANTIZED,
        "int8_io": _STATIC,
        "compat": _QUANTIZED - {"w4"},
        "group_size": frozenset({"w4"}),
    },
    open="edgeq.sources.tflite:open_tflite",
    convert="edgeq.sources.tflite:convert",
    observe="edgeq.runtimes.litert_observer:observe_file",
)

_COMPRESSED = ("w4", "w8", "nf4")

OPENVINO = FileFormat(
    name="openvino",
    suffix=".xml",
    precisions=_COMPRESSED,
    runtime="openvino",
    read="edgeq.sources.engine_specs:read_openvino_specs",
    write="edgeq.exporting.openvino.writer:write_file",
    effects={
        "keep": frozenset(_COMPRESSED),
        "vit_plan": frozenset(_COMPRESSED),
        "rescale": frozenset(_COMPRESSED),
        "weight_method": frozenset(_COMPRESSED),
        "group_size": frozenset(_COMPRESSED),
    },
)

TENSORRT_CACHE = FileFormat(
    name="tensorrt-cache",
    suffix=".cache",
    precisions=("int8",),
    runtime="tensorrt",
    read="edgeq.exporting.tensorrt.cache_file:read_cache",
    write="edgeq.exporting.tensorrt.cache_file:write_cache",
    holds="ranges",
)

FORMATS: dict[str, str] = {
    "onnx": "edgeq.sources.formats:ONNX",
    "openvino": "edgeq.sources.formats:OPENVINO",
    "tensorrt-cache": "edgeq.sources.formats:TENSORRT_CACHE",
    "tflite": "edgeq.sources.formats:TFLITE",
}


def get_format(name: str) -> FileFormat:
    """Returns the format of that name.

    Raises:
        InputError: there is none of that name.
    """
    found = load_entry("format", FORMATS, name)
    if not isinstance(found, FileFormat):
        raise InputError(f"format {name!r}: its entry is {type(found).__name__}, wanted a FileFormat")
    return found


def all_formats() -> list[FileFormat]:
    """Returns the formats that are known here, by name."""
    return [get_format(name) for name in registered("format", FORMATS)]


def model_formats() -> list[FileFormat]:
    """Returns those of models."""
    return [each for each in all_formats() if each.holds == "model"]


def format_of(suffix: str) -> FileFormat | None:
    """Returns the format whose files end so, or `None`."""
    return next((each for each in all_formats() if each.suffix == suffix), None)


def file_format(reference: str) -> FileFormat | None:
    """Returns the format of the float file that a model's reference is the path of; `None` for a torch model."""
    found = format_of(Path(reference).suffix)
    return found if found == ONNX or (found is not None and found.open is not None) else None


def source_format(reference: str) -> FileFormat:
    """Returns the format that a model is opened in: that of its file, the graph's for a torch model."""
    return file_format(reference) or ONNX
