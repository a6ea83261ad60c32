"""What a user gives as a model: a zoo name, `package.module:factory`, an `.onnx` file, or a torch module in memory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import InputError, ModelError
from edgeq.exporting.graphs.graph import read_onnx, require_file, specs
from edgeq.exporting.graphs.image_input import (
    DeclaredInputs,
    given_inputs,
    image_layout,
    image_lengths,
    require_free_batch,
    require_inputs,
    with_values_of_paddle,
)
from edgeq.exporting.graphs.quantized import quantization_of
from edgeq.exporting.graphs.weights import file_tensors, map_weights, release
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.passes.batchnorm import fold_batchnorm
from edgeq.exporting.passes.declared_inputs import input_value
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.exporting.passes.real_tensors import TakenScales
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.prepared_inputs import PreparedInputs
from edgeq.exporting.tensor_spec import Layout, TensorSpec
from edgeq.inputs.presets import (
    Labels,
    Preset,
    for_input,
    load_inputs,
    load_preset,
    parse_labels,
    preset_advice,
    require_channels,
)
from edgeq.models.names import CENTERNET_DEPTHS, is_zoo_name, zoo_preset
from edgeq.models.vit_configs import require_patches
from edgeq.notes import log_of
from edgeq.sources.file_metadata import FileMetadata
from edgeq.sources.formats import ONNX, file_format, source_format
from edgeq.sources.recognition import AUTO, ModelFacts, recognised_preset, with_file_names
from edgeq.sources.unknown_model import require_known

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeq.exporting.tflite.writer import TfliteModel
    from edgeq.models.torchvision_detectors import OwnInput
    from edgeq.sources.torch_module import TorchModule

_log = log_of(__name__)

_CENTERNET_STRIDE = 32
_ANY_SIZE = (64, 64)
_IMAGE_AXES = 4

ImageSize = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class ModelRequest:
    """What the user said about a model.

    Attributes:
        reference: Zoo name, `package.module:factory`, or the path of an `.onnx` file; of a module in memory its name.
        weights: Weights file of a torch model.
        preset: Name of a built-in preset or path of a TOML file, with settings behind commas or not; `None` and `auto`
            take the zoo model's own, and recognise that of a file or a factory.
        size: Input size, where the model or its weights do not fix it.
        labels: Class names: a COCO JSON, a text file with a name a line, or names with commas between them; or the
            names themselves.
        opset: ONNX opset of the graph.
        dynamic_batch: Whether the batch dimension stays free.
        module: A torch module in memory.
        take_scales: Whether an ONNX file that is quantized already is opened, as a float graph with the file's scales.
    """

    reference: str
    weights: Path | None = None
    preset: str | None = None
    size: ImageSize | None = None
    labels: Labels | None = None
    opset: int = 18
    dynamic_batch: bool = False
    module: TorchModule | None = None
    take_scales: bool = False

    @property
    def stated_preset(self) -> str | None:
        """The preset, or `None` where it is to be recognised."""
        return None if self.preset == AUTO else self.preset


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to be written.

    Attributes:
        model: The float graph with its declarations.
        module: The torch module that it came from, for comparison; `None` for an ONNX file.
        folded: What became of its BatchNormalization nodes.
        given: Input of the file that is a constant of the graph -> what it always gets.
    """

    model: FloatModel
    module: torch.nn.Module | None
    folded: RewriteReport
    given: Mapping[str, np.ndarray] = field(default_factory=dict)


def open_model(request: ModelRequest) -> OpenedModel:
    """Returns the float graph of a model, with BatchNorm folded and its pre- and post-processing declared.

    Raises:
        InputError: the reference, the weights, the preset or the labels cannot be used.
        ModelError: the model cannot be exported.
        MissingDependencyError: the `export` extra is not installed.
    """
    if request.module is not None:
        opened = _open_module(request, request.module)
    elif file_format(request.reference) == ONNX:
        opened = _open_onnx(request)
    else:
        require_known(request.reference)
        opened = _open_torch(request)
    for name, reason in opened.folded.left.items():
        _log.warning("BatchNormalization %s could not be folded: %s", name, reason)
    return opened


def open_float_model(request: ModelRequest) -> FloatModel | TfliteModel:
    """Returns a model's float graph, or its float file of a format with a form of its own.

    Raises:
        EdgeqError: it cannot be opened.
    """
    source = source_format(request.reference)
    if not source.has_own_form:
        return open_model(request).model
    model: TfliteModel = source.function("open")(request)
    return model


def check_request(request: ModelRequest) -> None:
    """Checks as much of a request as needs no opening of the model: its file, preset and labels.

    Raises:
        InputError: the file is missing, the reference or preset unknown, the labels cannot be read, or scales are to be
            taken of something else than an ONNX file.
    """
    reference = request.reference
    require_onnx_for_scales(request)
    if request.module is None and file_format(reference) is not None:
        if not Path(reference).is_file():
            raise InputError(f"{reference}: no such file; wanted a model")
    elif request.module is None:
        require_known(reference)
    if request.stated_preset is not None:
        load_preset(request.stated_preset, request.size or _ANY_SIZE)
    if request.labels is not None:
        parse_labels(request.labels)


def require_onnx_for_scales(request: ModelRequest) -> None:
    """Raises `InputError` where scales are to be taken of something else than an ONNX file."""
    if request.take_scales and (request.module is not None or file_format(request.reference) != ONNX):
        raise InputError(
            f"`take_scales`: {request.reference} is not an ONNX file, so it has no scales to take; omit `take_scales`"
        )


def _open_onnx(request: ModelRequest) -> OpenedModel:
    path = Path(request.reference)
    if request.weights is not None:
        raise InputError(f"`weights` {request.weights}: an ONNX file holds its weights already; omit `weights`")
    require_file(path)
    graph = read_onnx(path)
    metadata = FileMetadata.of({str(key): str(value) for key, value in graph.metadata_props.items()})
    preset_name = request.stated_preset
    declared = DeclaredInputs({}, 3, metadata.size) if preset_name is None else load_inputs(preset_name)
    declared = with_values_of_paddle(declared, graph, request.size, path.name)
    require_inputs(graph, declared.inputs, path.name)
    given = {
        str(value.name): input_value(value, declared.inputs[str(value.name)])
        for value in given_inputs(graph)
        if value.name in declared.inputs and declared.inputs[str(value.name)].value is not None
    }
    if request.dynamic_batch:
        require_free_batch(graph, declared, path.name)
    taken = _scales_to_take(request, path.name, graph)
    outputs = [(value.name, value.dtype) for value in graph.graph.outputs]
    passes = reading(request.opset, request.size, dynamic_batch=request.dynamic_batch, taken=taken, declared=declared)
    run_passes(graph, passes)
    if (found := [(value.name, value.dtype) for value in graph.graph.outputs]) != outputs:
        raise ModelError(f"{path.name}: its outputs {outputs} became {found} on reading; please report the model")
    (spec,) = specs(graph.graph.inputs)
    spec = dataclasses.replace(spec, layout=image_layout(spec.shape, declared.filled.layout))
    if preset_name is None:
        facts = ModelFacts.of(path.name, spec, specs(graph.graph.outputs), metadata, graph, frozenset(given))
        preset, layout = _recognised_preset(facts, spec, request)
    elif declared.filled.takes == "arrays":
        preset, layout = load_preset(preset_name, _ANY_SIZE), "NCHW"
        preset = dataclasses.replace(preset, preprocessing=_arrays(spec.shape))
    else:
        layout = spec.layout
        channels, height, width = image_lengths(spec.name, spec.shape, declared.filled.layout)
        if height is None or width is None or channels is None:
            raise ModelError("the model's height and width are free; fix them with `size`")
        preset = with_file_names(preset_name, load_preset(preset_name, (height, width)), metadata)
        require_channels(path.name, channels, preset_name, preset.preprocessing)
        preset = dataclasses.replace(preset, preprocessing=for_input(spec, preset.preprocessing))
    opened = _assemble(request, path.stem, graph, None, preset, layout, taken)
    return dataclasses.replace(opened, given=given)


def _recognised_preset(facts: ModelFacts, spec: TensorSpec, request: ModelRequest) -> tuple[Preset, Layout]:
    """Returns the preset that a file's form tells, or that of a bare network, and where images have their channels."""
    preset = recognised_preset(facts, request.size, "export", request.labels)
    if preset is not None:
        return dataclasses.replace(preset, preprocessing=for_input(spec, preset.preprocessing)), spec.layout
    lengths = [length for length in (facts.channels, facts.height_px, facts.width_px) if length is not None]
    if len(spec.shape) != _IMAGE_AXES or facts.channels not in (1, 3):
        return Preset(_arrays(spec.shape), None, ()), "NCHW"
    if len(lengths) < len(spec.shape) - 1:
        raise ModelError("the model's height and width are free; fix them with `size`")
    return _bare(*lengths), spec.layout


def _bare(channels: int, height: int, width: int) -> Preset:
    """Returns the preset of a network of which nothing is known but the shape of its images."""
    return Preset(PreparedInputs(height, width, channel_order="gray" if channels == 1 else "rgb"), None, ())


def _arrays(shape: tuple[int | None, ...]) -> PreparedInputs:
    """Returns the pre-processing of a model that takes arrays as they are, by its input's shape."""
    shape = shape[1:] if shape[:1] in ((1,), (None,)) else shape
    return PreparedInputs.of(tuple(length for length in shape if length is not None))


def _scales_to_take(request: ModelRequest, name: str, graph: ir.Model) -> TakenScales | None:
    """Returns where the scales of a quantized graph go; `None` for one that computes in float."""
    found = quantization_of(graph)
    if found is None:
        if request.take_scales:
            raise InputError(f"`take_scales`: {name} computes in float and has no scales to take; omit `take_scales`")
        return None
    if not request.take_scales:
        raise ModelError(
            f"{name}: is quantized already ({found}); give the float model that it was made of, or `take_scales` to "
            "make files with the scales that it has; edgeq bench and edgeq eval take it as it is"
        )
    if not found.startswith(("Q/DQ", "QOperator")):
        raise ModelError(
            f"{name}: `take_scales` takes those of QuantizeLinear and QLinear operators, and this is {found}; give the "
            "float model that it was made of"
        )
    return TakenScales()


def _open_module(request: ModelRequest, given: TorchModule) -> OpenedModel:
    from edgeq.models.outputs import tensor_outputs
    from edgeq.sources.torch_export import export_torch

    given.require_ready()  # again: it may have been trained since it was given
    module = tensor_outputs(given.module, given.example)
    names = _output_names(module)
    graph = export_torch(module, given.example, names, opset=request.opset, dynamic_batch=request.dynamic_batch)
    channels, height, width = given.example.shape[1:]
    if request.stated_preset is None:
        preset = _bare(channels, height, width)
    else:
        preset = load_preset(request.stated_preset, (height, width))
        require_channels(request.reference, channels, request.stated_preset, preset.preprocessing)
    return _assemble(request, request.reference, graph, module, preset)


def _open_torch(request: ModelRequest) -> OpenedModel:
    from edgeq.models.outputs import tensor_outputs
    from edgeq.models.torchvision_detectors import own_input
    from edgeq.models.vit import VisionTransformer
    from edgeq.models.zoo import load_model, read_metadata, shipped_weights
    from edgeq.sources.torch_export import export_torch

    weights = request.weights or shipped_weights(request.reference)
    metadata = read_metadata(weights) if weights is not None else {}
    module = load_model(request.reference, request.weights)
    preset_name = request.stated_preset or zoo_preset(request.reference)
    vit = module.config if isinstance(module, VisionTransformer) else None
    own = own_input(module)
    own_size = (vit.image_px, vit.image_px) if vit is not None else None if own is None else own.size
    size = request.size or _metadata_size(metadata) or own_size
    stated, channels = None, 3
    if preset_name is not None:
        stated = load_preset(preset_name, size)
        spec = stated.preprocessing
        channels, size = spec.channels, (spec.height_px, spec.width_px)
    elif size is None:
        raise InputError(
            f"{request.reference}: a torch model does not say what its input is; give `size` HxW, and its outputs tell "
            f"how images are prepared; or give `preset`, {preset_advice()}"
        )
    if request.reference in CENTERNET_DEPTHS and any(side % _CENTERNET_STRIDE for side in size):
        raise InputError(f"`size` {size[0]}x{size[1]}: CenterNet needs sides that are multiples of {_CENTERNET_STRIDE}")
    if vit is not None:
        require_patches(request.reference, vit, size)
    if is_zoo_name(request.reference) and stated is not None:
        require_channels(request.reference, 3 if vit is None else vit.channels, str(preset_name), stated.preprocessing)

    import torch

    example = torch.zeros(1, channels, *size)
    if not is_zoo_name(request.reference):
        module = tensor_outputs(module, example)
    names = _output_names(module)
    graph = export_torch(module, example, names, opset=request.opset, dynamic_batch=request.dynamic_batch)
    name = request.weights.stem if request.weights is not None else request.reference.rpartition(":")[2]
    preset = stated if stated is not None else _recognised_torch(name, graph, request, own)
    if not preset.labels and "labels" in metadata:
        preset = dataclasses.replace(preset, labels=tuple(metadata["labels"].split(",")))
    return _assemble(request, name, graph, module, preset)


def _recognised_torch(name: str, graph: ir.Model, request: ModelRequest, own: OwnInput | None) -> Preset:
    """Returns the preset that a torch model's outputs tell, with the normalising that a detector states itself."""
    (spec,) = specs(graph.graph.inputs)
    facts = ModelFacts.of(name, spec, specs(graph.graph.outputs), FileMetadata(), graph)
    facts = dataclasses.replace(facts, provable=False)
    preset, _ = _recognised_preset(facts, spec, request)
    if own is None or preset.postprocessing is None:
        return preset
    given = preset.preprocessing
    if np.allclose([given.mean, given.std], [own.mean, own.std], atol=1e-6):
        return preset
    _log.info("%s: normalises by its own mean %s and std %s", name, list(own.mean), list(own.std))
    return dataclasses.replace(preset, preprocessing=dataclasses.replace(given, mean=own.mean, std=own.std))


def _assemble(
    request: ModelRequest,
    name: str,
    graph: ir.Model,
    module: torch.nn.Module | None,
    preset: Preset,
    layout: Layout = "NCHW",
    taken: TakenScales | None = None,
) -> OpenedModel:
    lying = file_tensors(graph)
    reports = run_passes(graph, SIMPLIFYING)
    for rewrite, report in reports.items():
        for node, reason in report.left.items():
            _log.debug("%s: %s is left as it is: %s", rewrite, node, reason)
    labels = preset.labels if request.labels is None else parse_labels(request.labels)
    map_weights(graph)
    for tensor in lying:
        release(tensor)  # replaced ones live on for a while
    model = FloatModel(name, graph, preset.preprocessing, preset.postprocessing, labels, layout, taken)
    return OpenedModel(model, module, reports[fold_batchnorm.__name__])


def _output_names(module: torch.nn.Module) -> Sequence[str]:
    names = getattr(module, "output_names", ())
    return tuple(str(name) for name in names)


def _metadata_size(metadata: dict[str, str]) -> ImageSize | None:
    return parse_size(metadata["input_size"], "input_size of the weights") if "input_size" in metadata else None


def parse_size(text: str, source: str = "`size`") -> ImageSize:
    """Returns height and width of `HxW` or of one number for both.

    Args:
        text: What was written.
        source: Where, for the error.

    Raises:
        InputError: the text has another form or a side is not positive.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?", text.strip().lower())
    if match is None:
        raise InputError(f"{source} {text!r}: wanted height x width in pixels, for example 320x416")
    return int(match[1]), int(match[2] or match[1])
