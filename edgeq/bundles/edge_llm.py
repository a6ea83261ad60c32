"""The folder that a Jetson takes: ONNX files of what reads images, and the checkpoint that TensorRT Edge-LLM exports.

What its exporter and kernels take (read in 0.11's documents and package, and tried with its loader):

1. Checkpoints of `quant_method` gptq or awq with 4 bits, groups of 128. Its kernel computes `(q - 8) * scale`; other
   zero points are shifted and cut at 0 and 15, so that they have to be in the middle.
2. Outputs and inputs of a layer of 4 bits are multiples of 64.
3. The head, tables and everything that `quantization_config` does not hold are FP16.
4. It writes vision parts itself for families in `OWN_VISION`; of others it takes the decoder as a language model.
5. A decoder that it has no file for is computed as Llama is: RMSNorm, gated feed-forward layers, rotary positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeq.boundary import Count, Positive, convert, read_json
from edgeq.bundles.precision import HEAD, Precision
from edgeq.errors import InputError
from edgeq.exporting.checkpoints.writer import CheckpointPlan
from edgeq.files import has_content, sha256_file, write_json
from edgeq.memory.architecture import Architecture

MANIFEST_NAME = "edgeq-edge-llm.json"
DECODER, VISION = "decoder", "vision"
"""Folders of the checkpoint, and of the ONNX files."""

GROUP_SIZE = 128
OWN_VISION = ("qwen2_5_vl",)
"""Families whose vision part TensorRT Edge-LLM writes of the checkpoint."""

_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen2_5_vl_text")
_BITS = 4
_MULTIPLE = 64
_AWQ, _GPTQ = "awq", "gptq"
_VERSION = 1
_KIND = "a manifest of a folder for Jetson"
_ADVICE = "export the model again"


@dataclass(frozen=True, kw_only=True)
class FolderFile:
    """A file.

    Attributes:
        file: Its path within the folder, with `/`.
        sha256: Digest of its bytes, hexadecimal.
        size_bytes: Its size.

    Raises:
        ValueError: the path leads out of the folder.
    """

    file: str
    sha256: str
    size_bytes: Count

    def __post_init__(self) -> None:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in self.file:
            raise ValueError(f"{self.file!r} is not a file of the folder")

    @classmethod
    def of(cls, folder: Path, path: Path) -> FolderFile:
        """Returns what a manifest says of a file of a folder."""
        return cls(file=path.relative_to(folder).as_posix(), sha256=sha256_file(path), size_bytes=path.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An ONNX file for TensorRT.

    Attributes:
        file: Its path within the folder.
        precision: `fp32`, `fp16` or `int8`.
        method: How ranges were chosen; empty for floats.
        max_difference: Largest absolute difference from PyTorch before quantization.
        output_error: What quantization adds: the norm of the outputs' difference over the outputs' norm.
    """

    file: str
    precision: str
    method: str = ""
    max_difference: float
    output_error: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The decoder's checkpoint.

    Attributes:
        format: `gptq` or `awq`.
        precision: Bits and groups of its weights.
        method: How they were quantized.
        layers: How many layers have few bits.
    """

    format: str
    precision: str
    method: str
    layers: Positive


@dataclass(frozen=True, kw_only=True)
class BoardFit:
    """A board that holds the model, by `edgeq plan`.

    Attributes:
        board: Its name.
        total_bytes: What is in memory at the peak, with `context` tokens.
        budget_bytes: Its memory.
        context: Tokens that are planned for.
        most_context: Most tokens that fit.
    """

    board: str
    total_bytes: Count
    budget_bytes: Count
    context: Positive
    most_context: Count


@dataclass(frozen=True, kw_only=True)
class EdgeLlmFolder:
    """What a folder for Jetson holds.

    Attributes:
        folder: Where it lies; the manifest does not store it.
        name: What the model is called.
        family: Its `model_type` in transformers.
        target: Name of the target.
        images: Part -> its ONNX file; none if TensorRT Edge-LLM writes it itself, or the model takes no images.
        checkpoint: The decoder.
        fits: The boards that hold it, the smallest first.
        files: All files but the manifest.
        source_digest: SHA-256 over the digests of the files that it was made from.
        tools: Package -> version of what wrote the files.
    """

    folder: Path = Path()
    name: str
    family: str
    target: str
    images: Mapping[str, ImagePart]
    checkpoint: Checkpoint
    fits: tuple[BoardFit, ...]
    files: tuple[FolderFile, ...]
    source_digest: str
    tools: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the manifest."""
        document = dataclasses.asdict(self) | {"manifest_version": _VERSION}
        del document["folder"]
        return document

    def save(self) -> None:
        """Writes the manifest into `folder`."""
        write_json(self.folder / MANIFEST_NAME, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> EdgeLlmFolder:
        """Returns what the manifest of a folder says; its files are not looked at.

        Raises:
            InputError: there is no manifest, or it is not one of ours.
        """
        manifest = folder / MANIFEST_NAME
        document: dict[str, Any] = read_json(manifest, dict[str, Any], kind=_KIND, advice=_ADVICE)
        if (version := document.pop("manifest_version", None)) != _VERSION:
            raise InputError(f"{manifest}: manifest version {version}, this edgeq reads {_VERSION}; {_ADVICE}")
        document.pop("folder", None)
        return dataclasses.replace(convert(document, cls, source=manifest, kind=_KIND, advice=_ADVICE), folder=folder)

    def problems(self) -> list[str]:
        """Returns a line for each file that is missing or changed."""
        found = []
        for file in self.files:
            path = self.folder / file.file
            if not path.is_file():
                found.append(f"{path}: is missing; the folder's manifest lists it, {_ADVICE}")
            elif not has_content(path, file.size_bytes, file.sha256):
                found.append(f"{path}: is not the file that {MANIFEST_NAME} describes, {_ADVICE}")
        return found


def is_edge_llm_folder(path: Path) -> bool:
    """Returns whether a path is such a folder."""
    return (path / MANIFEST_NAME).is_file()


def checkpoint_format(precision: Precision) -> str:
    """Returns `gptq` or `awq`, which a decoder's precision is stored as.

    Raises:
        InputError: TensorRT Edge-LLM takes no such decoder.
    """
    name, method = precision.name, precision.method
    stated = f"`part` decoder={name}{'-' if method else ''}{method}"
    if name != f"w{_BITS}g{GROUP_SIZE}":
        raise InputError(
            f"{stated}: TensorRT Edge-LLM's kernel takes 4 bits in groups of {GROUP_SIZE}, zero points in the middle; "
            f"write decoder=w{_BITS}g{GROUP_SIZE}-gptq or decoder=w{_BITS}g{GROUP_SIZE}-awq"
        )
    if method == "hqq":
        raise InputError(f"{stated}: hqq chooses zero points, and the kernel has one; write {name}-gptq or {name}-rtn")
    return _AWQ if method.startswith(_AWQ) else _GPTQ


def require_family(model: Architecture) -> None:
    """Refuses a model that TensorRT Edge-LLM 0.11 does not take, or computes as another one.

    Raises:
        InputError: it is one.
    """
    if model.decoder is None:
        raise InputError(f"family {model.family}: has no decoder; export its parts as ONNX files with `edgeq export`")
    if model.family == "qwen2_vl":
        raise InputError(
            "family qwen2_vl: TensorRT Edge-LLM 0.11 has the vision part that gives image tokens their positions for "
            "Qwen2.5-VL, and none for Qwen2-VL; take Qwen2.5-VL, or export this model for x86"
        )
    if model.decoder.family not in _LIKE_LLAMA:
        raise InputError(
            f"family {model.family}: TensorRT Edge-LLM 0.11 has no decoder of the family {model.decoder.family} and "
            f"would compute it as Llama; take one of {', '.join(_LIKE_LLAMA)}, or export this model for x86"
        )


def require_precisions(family: str, precisions: Mapping[str, Precision]) -> None:
    """Refuses precisions of parts that a Jetson does not run.

    Args:
        family: The model's `model_type`.
        precisions: Part -> precision; the head is one of them.

    Raises:
        InputError: there is one.
    """
    checkpoint_format(precisions["decoder"])
    for part in ("embedding", HEAD):
        if part in precisions and precisions[part].name != "fp16":
            raise InputError(f"`part` {part}={precisions[part].name}: TensorRT Edge-LLM has it in FP16; omit it")
    for part in ("vision", "connector"):
        precision = precisions.get(part)
        if precision is None or precision.is_float or precision.is_static:
            continue
        raise InputError(f"`part` {part}={precision.name}: TensorRT runs it in fp16, fp32 or int8; write one of them")
    if family in OWN_VISION and precisions["vision"].name != "fp16":
        raise InputError(
            f"`part` vision={precisions['vision'].name}: TensorRT Edge-LLM writes the vision part of {family} itself, "
            "from the checkpoint, in FP16; write vision=fp16"
        )


def require_layers(plan: CheckpointPlan) -> None:
    """Refuses layers that the kernel cannot take.

    Raises:
        InputError: there is one.
    """
    for module in plan.layers.quantized:
        outputs, inputs = plan.weight(module).shape
        if outputs % _MULTIPLE or inputs % _MULTIPLE:
            raise InputError(
                f"{plan.folder}: {module} is {outputs} x {inputs}; TensorRT Edge-LLM's kernel of 4 bits takes "
                f"multiples of {_MULTIPLE}, export this model for x86"
            )
