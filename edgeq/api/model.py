"""`edgeq.load`: a model that every other function takes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeq.api.arguments import FilePath, class_names, optional_path
from edgeq.errors import InputError
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.sources.formats import file_format
from edgeq.sources.model import ImageSize, ModelRequest, check_request, open_float_model
from edgeq.sources.torch_module import TorchModule
from edgeq.targets import get_target

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    ExampleInput: TypeAlias = "torch.Tensor | NDArray[np.float32]"

_MIN_OPSET, _MAX_OPSET = 17, 23
_DEFAULT_TARGET = "x86"


@dataclass(frozen=True)
class Model:
    """A float model with what was said about it. It is opened anew by every function that needs it.

    Attributes:
        name: What its files are called by default.
        opset: ONNX opset of its graph; `None` takes that of the target.
    """

    _request: ModelRequest = dataclasses.field(repr=False)
    name: str
    opset: int | None = None

    def request(self, target: str = _DEFAULT_TARGET) -> ModelRequest:
        """Returns what opens the model for a target.

        Raises:
            InputError: there is no such target.
        """
        return dataclasses.replace(self._request, opset=self.opset or get_target(target).rules.opset)

    def open(self) -> FloatModel | TfliteModel:
        """Returns the float graph, or the float TFLite file, with its pre- and post-processing.

        Raises:
            EdgeqError: it cannot be opened.
        """
        return open_float_model(self.request())


def load(
    model: str | os.PathLike[str] | torch.nn.Module,
    example_input: ExampleInput | None = None,
    *,
    preset: FilePath | None = None,
    size: ImageSize | None = None,
    labels: FilePath | Sequence[str] | None = None,
    weights: FilePath | None = None,
    opset: int | None = None,
    dynamic_batch: bool = False,
    take_scales: bool = False,
    name: str | None = None,
) -> Model:
    """Returns a model for `calibrate` and `export`.

    What can be checked is checked at once. The graph is made when it is needed, from the module as it is then; a torch
    module is run and read, and never changed.

    Args:
        model: A zoo name, `package.module:factory`, the path of an `.onnx` or a float `.tflite` file, or a
            `torch.nn.Module` in eval mode, in float32, on the CPU.
        example_input: For a module: an input `(N, C, H, W)`, float32, whose shape says what the files will take; C is
            3, or 1 for gray images. N does not matter: files take one image, or any number with `dynamic_batch`.
        preset: How images are prepared and outputs are read: the name of a preset or the path of a `.toml` file. By
            default that of a file or a factory is recognised, and stated. A module without one, and what is not
            recognised, is calibrated on inputs that are prepared, and its files can be timed but not scored.
        size: Height and width of the input in pixels, if the model does not fix them.
        labels: Class names by class index, the path of a COCO JSON or of a text file with one name per line, or one
            text with commas between the names.
        weights: Weights of a torch model: `.safetensors` or `.pth`.
        opset: ONNX opset, 17 to 23; by default that of the target.
        dynamic_batch: Whether the batch dimension stays free.
        take_scales: Whether the model is an ONNX file that is quantized already, with Q/DQ pairs or QLinear operators,
            whose scales the files are to have. `export` then takes no ranges.
        name: For a module: what its files are called; by default as its class.

    Raises:
        InputError: an argument cannot be used, or does not go with the kind of model.
        ModelError: a module is in training mode, not in float32, or not on the CPU.
        MissingDependencyError: torch is not installed.
    """
    if opset is not None and not (isinstance(opset, int) and _MIN_OPSET <= opset <= _MAX_OPSET):
        raise InputError(f"`opset` is {opset!r}; wanted a number from {_MIN_OPSET} to {_MAX_OPSET}")
    request = ModelRequest(
        reference="",
        weights=optional_path(weights, "weights"),
        preset=None if preset is None else os.fspath(preset),
        size=_size(size),
        labels=class_names(labels),
        dynamic_batch=dynamic_batch,
        take_scales=take_scales,
    )
    if isinstance(model, str | os.PathLike):
        for_modules: dict[str, object] = {"example_input": example_input, "name": name}
        for parameter, given in for_modules.items():
            if given is not None:
                raise InputError(f"`{parameter}` is for a torch.nn.Module; omit it, or give the module as `model`")
        reference = os.fspath(model)
        request = dataclasses.replace(request, reference=reference)
        name = Path(reference).stem if file_format(reference) is not None else reference.rpartition(":")[2]
    else:
        for_files: dict[str, object] = {"size": size, "weights": weights}
        for parameter, given in for_files.items():
            if given is not None:
                raise InputError(f"`{parameter}` cannot be combined with a torch.nn.Module, which has its own; omit it")
        name = type(model).__name__ if name is None else name
        if not isinstance(name, str) or re.fullmatch(r"[\w-]{1,100}", name) is None:
            raise InputError(f"`name` is {name!r}; wanted letters, digits, - and _, for the names of files")
        request = dataclasses.replace(request, reference=name, module=TorchModule.of(model, example_input))
    check_request(request)
    return Model(request, name, opset)


def require_model(model: object) -> Model:
    """Returns the model; raises `InputError` for anything that `load` did not return."""
    if not isinstance(model, Model):
        raise InputError(f"`model` is of type {type(model).__name__}; wanted what edgeq.load returns")
    return model


def _size(given: object) -> ImageSize | None:
    if given is None:
        return None
    sides = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side < 1 << 15 for side in sides):
        raise InputError(f"`size` is {given!r}; wanted height and width in pixels, for example (320, 416)")
    return sides[0], sides[1]
