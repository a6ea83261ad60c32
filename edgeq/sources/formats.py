"""File formats of models: what each is called, what it is written in, and who reads, runs and writes it.

A format is one entry of `FORMATS`, or an installed package's entry point in the group `edgeq.formats` that leads to a
`FileFormat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeq.errors import InputError
from edgeq.registry import load_entry, load_object, registered


@dataclass(frozen=True)
class FileFormat:
    """A format of model files.

    Attributes:
        name: As the parameter `format` and manifests have it.
        suffix: Of its files, with the dot.
        precisions: What a model is written in.
        runtime: Name of the runtime that files are compared with their model in.
        read: `package.module:function` that returns the inputs and outputs of a file without a manifest:
            `(path) -> (inputs, outputs)`, as `edgeq.exporting.artifact.TensorSpec`.
        effects: Parameter of `edgeq.export` -> the precisions whose files it changes. An option that changes no file
            that is asked for is refused.
        write: `package.module:function` that writes one file of an installed format:
            `(model, target, precision, folder, ranges) -> Artifact`, with a `FloatModel`, a `Target`, and `Ranges` for
            precisions with static ranges. Such a format is written for every target, when it is asked for by name.
            `None` for the formats of edgeq, which `edgeq.verbs.export` writes.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    runtime: str
    read: str
    effects: Mapping[str, frozenset[str]] = field(default_factory=dict)
    write: str | None = None

    def reader(self) -> Any:
        """Returns the function of `read`."""
        return load_object(f"reader of the format {self.name}", self.read)

    def writer(self) -> Any:
        """Returns the function of `write`, or `None`."""
        return None if self.write is None else load_object(f"writer of the format {self.name}", self.write)


_QUANTIZED = frozenset({"int8", "int16x8", "dynamic"})
_STATIC = frozenset({"int8", "int16x8"})

ONNX = FileFormat(
    name="onnx",
    suffix=".onnx",
    precisions=("fp32", "fp16", "int8", "dynamic"),
    runtime="onnxruntime",
    read="edgeq.sources.engine_specs:read_onnx_specs",
    effects={
        "keep": _QUANTIZED,
        "vit_plan": _QUANTIZED,
        "rescale": frozenset({"fp32", "fp16", *_QUANTIZED}),
        "int8_deconv": frozenset({"int8"}),
    },
)

TFLITE = FileFormat(
    name="tflite",
    suffix=".tflite",
    precisions=("fp32", "fp16", "int8", "int16x8", "dynamic"),
    runtime="litert",
    read="edgeq.sources.engine_specs:read_tflite_specs",
    effects={"keep": _QUANTIZED, "vit_plan": _QUANTIZED, "int8_io": _STATIC, "compat": _QUANTIZED},
)

FORMATS: dict[str, str] = {"onnx": "edgeq.sources.formats:ONNX", "tflite": "edgeq.sources.formats:TFLITE"}


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


def format_of(suffix: str) -> FileFormat | None:
    """Returns the format whose files end so, or `None`."""
    return next((each for each in all_formats() if each.suffix == suffix), None)
