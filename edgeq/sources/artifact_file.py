"""Model files of other tools: what their engine tells of them, and what a preset declares, as an `Artifact`.

A file that `edgeq export` wrote has a manifest and is opened by that alone.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact, manifest_path
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.tensorrt.qdq import has_fp16_scales
from edgeq.files import sha256_file
from edgeq.inputs.presets import Labels, Preset, for_input, load_preset, parse_labels, require_channels
from edgeq.sources.file_metadata import FileMetadata, tflite_metadata
from edgeq.sources.formats import ONNX, TFLITE, format_of, model_formats
from edgeq.sources.recognition import AUTO, ModelFacts, recognised_preset, with_file_names

if TYPE_CHECKING:
    import onnx_ir as ir

_IMAGE_AXES = 4


def open_artifact(path: Path, preset: str | None = None, labels: Labels | None = None) -> Artifact:
    """Returns the artifact of a model file or a manifest, or for a file without one what can be known of it.

    Names, shapes, types and quantization of such a file's tensors come from its engine; its target, precision and
    everything else that only a manifest tells stay empty. The input's size replaces that of the preset.

    Args:
        path: A model file or a manifest.
        preset: How a file without a manifest is fed and decoded: a name or a TOML file; `auto` recognises it.
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
                f"{path}: has a manifest that says how images are prepared and outputs are read; omit `preset` and "
                "`labels`"
            )
        return artifact
    artifact = describe_file(path)
    if preset is None:
        return artifact
    channels, size = _input_image(artifact)
    image = artifact.inputs[0]
    declared: Preset | None
    if preset == AUTO:
        declared = recognised_preset(facts_of(artifact), size, "eval", labels)
        if declared is None:
            return artifact
    else:
        declared = with_file_names(preset, load_preset(preset, size), _metadata(path))
        if channels is not None:
            require_channels(str(path), channels, preset, declared.preprocessing)
    return dataclasses.replace(
        artifact,
        inputs=(image.of_pixels,),
        preprocessing=for_input(image, declared.preprocessing),
        postprocessing=declared.postprocessing,
        labels=declared.labels if labels is None else parse_labels(labels),
    )


def facts_of(artifact: Artifact) -> ModelFacts:
    """Returns what recognisers look at, of a file without a manifest that takes one image.

    Raises:
        EdgeqError: it takes something else, or cannot be read.
    """
    _input_image(artifact)
    graph = read_onnx(artifact.path) if artifact.path.suffix == ONNX.suffix else None
    (image,) = artifact.inputs
    return ModelFacts.of(artifact.name, image, artifact.outputs, _metadata(artifact.path, graph), graph)


def _metadata(path: Path, graph: ir.Model | None = None) -> FileMetadata:
    """Returns what a file says of itself; of formats that say nothing, nothing."""
    if path.suffix == ONNX.suffix:
        properties = (read_onnx(path) if graph is None else graph).metadata_props
        return FileMetadata.of({str(key): str(value) for key, value in properties.items()})
    return tflite_metadata(path) if path.suffix == TFLITE.suffix else FileMetadata()


def describe_file(path: Path) -> Artifact:
    """Returns what the engine of a file without a manifest tells of it.

    Raises:
        EdgeqError: as `open_artifact`.
    """
    found = format_of(path.suffix)
    if found is None or found.holds != "model":
        raise InputError(
            f"{path}: has no manifest next to it ({manifest_path(path).name}), and its format does not say enough "
            f"without one ({', '.join(each.suffix for each in model_formats())}); write the file with `edgeq export`"
        )
    inputs, outputs = found.function("read")(path)
    return Artifact(
        path=path,
        format=found.name,
        precision="",
        target="",
        inputs=inputs,
        outputs=outputs,
        preprocessing=None,
        digest=sha256_file(path),
        quantization={"fp16_scales": True} if found is ONNX and _has_fp16_scales(path) else {},
    )


def _has_fp16_scales(path: Path) -> bool:
    # A device runs files without the package that reads graphs; engines without WeightBiasQuantization are as right.
    return importlib.util.find_spec("onnx_ir") is not None and has_fp16_scales(read_onnx(path))


def takes_image(artifact: Artifact) -> bool:
    """Returns whether a model takes a batch of images and nothing else, so that it can be scored as it is."""
    return len(artifact.inputs) == 1 and len(artifact.inputs[0].shape) == _IMAGE_AXES


def _input_image(artifact: Artifact) -> tuple[int | None, tuple[int, int] | None]:
    """Returns how many channels a model's image has, and its height and width; `None` where they are free."""
    if not takes_image(artifact):
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in artifact.inputs)
        raise InputError(
            f"{artifact.path}: has the inputs {shapes}; wanted a single image (N, C, H, W) or (N, H, W, C)"
        )
    (spec,) = artifact.inputs
    channels, height, width = spec.shape[1:] if spec.layout == "NCHW" else (spec.shape[3], *spec.shape[1:3])
    if channels not in (1, 3, None):
        raise InputError(f"{artifact.path}: its input {spec.name!r} has {channels} channels; wanted an image of 3 or 1")
    return channels, None if height is None or width is None else (height, width)
