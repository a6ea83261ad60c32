"""A float model in an engine that hands out its activations, and the tensors that are counted of it by default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgeq.calibration.non_finite import origin_of
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.data_flow import image_values, is_float
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.graphs.masks import infinite_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.fp16_audit import audited_tensors, thinned
from edgeq.exporting.planning.keep import VitPlan
from edgeq.exporting.planning.selection import activation_behind, observed_tensors, select_layers
from edgeq.exporting.tflite.plan import observed_tensors as observed_in_tflite
from edgeq.exporting.tflite.writer import TfliteModel
from edgeq.sources.formats import get_format
from edgeq.targets import TARGETS, Target, get_target


def calibrated_tensors(model: FloatModel, further: Sequence[Target] = ()) -> list[str]:
    """Returns the tensors that a target of edgeq, or of `further`, quantizes, and those that are audited for FP16."""
    return list(dict.fromkeys([*_quantized_tensors(model, further), *audited_tensors(model.graph)]))


def _quantized_tensors(model: FloatModel, further: Sequence[Target] = ()) -> list[str]:
    """Returns the tensors that some target of edgeq quantizes: one calibration serves them all.

    What TFLite files need is among them: the outputs, for files whose outputs are integers, what depthwise
    convolutions read and write, and what linear layers write.

    Args:
        model: The float model.
        further: Targets that are asked for by name. Those that are merely installed do not count, so that the same
            calibration writes the same bytes on every machine.
    """
    targets = [*(get_target(name) for name in TARGETS), *further]
    rules = [target.rules for target in targets]
    rules += [each.rules.requested("DepthwiseConv") for each in targets if "tflite" in each.formats]
    plans: tuple[VitPlan, ...] = ("balanced", "fast") if find_transformer(model.graph).blocks else ("balanced",)
    chosen = [select_layers(model.graph, each, vit_plan=plan) for each in rules for plan in plans]
    observed = observed_tensors(model.graph, chosen)
    from_image = image_values(model.graph)
    outputs = [str(value.name) for value in model.graph.graph.outputs if value in from_image and is_float(value)]
    if any(each.rewrite_conv_transpose for each in rules):
        # Before a function a ConvTranspose stays in float, and is a Conv before a DepthToSpace once rewritten.
        transposed = (node for node in model.graph.graph if node.op_type == "ConvTranspose")
        outputs += [str(activation_behind(node).name) for node in transposed]
    if any("tflite" in each.formats for each in targets):
        # Engines of ONNX files give floats out of a linear layer, TFLite's static FULLY_CONNECTED does not.
        layers = (linear_of(node) for node in model.graph.graph)
        outputs += [str(activation_behind(layer.add or layer.node).name) for layer in layers if layer is not None]
    return list(dict.fromkeys([*observed, *outputs]))


class ObservedModel(Protocol):
    """A float model in an engine that hands out its activations.

    Attributes:
        digest: Digest of the model.
        preprocessing: What makes its input of an image.
        names: Tensors that are counted.
    """

    digest: str
    preprocessing: Preprocessing
    names: list[str]

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns in words where the NaN or infinite values of a tensor come from."""


class ObservedOnnxModel:
    """A float ONNX graph in ONNX Runtime; it hands out further tensors that are not counted."""

    def __init__(
        self,
        model: FloatModel,
        tensors: Sequence[str] | None,
        threads: int | None,
        further: Sequence[str] = (),
        targets: Sequence[Target] = (),
    ) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        self._model, self._threads = model, threads
        counted = list(tensors) if tensors is not None else _quantized_tensors(model, targets)
        audited = audited_tensors(model.graph) if tensors is None else []
        self.names = list(dict.fromkeys([*counted, *audited]))
        self._thinned = frozenset(audited).difference(counted, further)
        self._masked = {str(value.name) for value in infinite_values(model.graph)}.intersection(self.names)
        observed = list(dict.fromkeys([*self.names, *further]))
        self._observe = get_format(model.format).function("observe")(model, observed, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        arrays: dict[str, np.ndarray] = self._observe(image)
        # What a mask of minus infinity hides is no value of the tensor.
        arrays |= {name: arrays[name][arrays[name] != -np.inf] for name in self._masked}
        return arrays | {name: thinned(arrays[name]) for name in self._thinned}

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns the first tensor and its node on the way to a tensor that hold NaN or infinite values."""
        return origin_of(self._model, tensor, image, self._threads)


class ObservedTfliteModel:
    """A float TFLite file in LiteRT."""

    def __init__(self, model: TfliteModel, tensors: Sequence[str] | None, threads: int | None) -> None:
        self.digest, self.preprocessing = model.digest, model.preprocessing
        self.names = list(tensors) if tensors is not None else observed_in_tflite(model.graph)
        self._observe = get_format(model.format).function("observe")(model, self.names, threads)

    def observe(self, image: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns tensor name -> activations for an input `(1, 3, H, W)`."""
        arrays: dict[str, np.ndarray] = self._observe(image)
        return arrays

    def origin(self, tensor: str, image: np.ndarray) -> str:
        """Returns the tensor."""
        return f"tensor {tensor!r}"


def observed_model(
    model: FloatModel | TfliteModel,
    tensors: Sequence[str] | None,
    threads: int | None,
    targets: Sequence[Target] = (),
    further: Sequence[str] = (),
) -> ObservedModel:
    """Returns a float model in the engine of its format.

    Args:
        model: The model.
        tensors: Names of the tensors to observe; by default all that some target of edgeq or precision quantizes.
        threads: CPU threads of the engine.
        targets: Further targets, whose tensors are observed too.
        further: Tensors of a graph that are handed out and not counted.

    Raises:
        InputError: the model has no such tensor.
        EngineError: the engine cannot run it.
    """
    if isinstance(model, FloatModel):
        return ObservedOnnxModel(model, tensors, threads, further, targets)
    return ObservedTfliteModel(model, tensors, threads)
