"""Quantizes the linear layers of chosen parts of a LLaVA, in torch, by edgeq's own weight methods.

Layers are done in the order in which they run, each for what it reads behind those that are done. The weights stay in
the model as the floats that their integers stand for, so every number of bits can be computed; nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.calibration.statistics.second_moments import SecondMoments
from edgeq.quantizers import QuantizedWeight, get_weight_method
from edgeq.quantizers.channel_scales import scaled, search_channel_scales
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.quantizers.recipes import Recipe, get_recipe
from edgeq.quantizers.weight import stored_bits
from edgeq.schemes import PerGroup, Scheme

PARTS = {
    "vision": "model.vision_tower.",
    "connector": "model.multi_modal_projector.",
    "decoder": "model.language_model.",
}
"""Part -> how the names of its layers begin. The head that gives the letters' scores belongs to none of them."""

_HALF_BITS = 16


def grid(bits: int, group: int) -> Scheme:
    """Returns evenly spaced integers with zero points, in groups of inputs."""
    return Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(group))


@dataclass(frozen=True)
class Precision:
    """How the weights of chosen parts are stored; all other weights stay in FP16.

    Attributes:
        bits: Of a weight.
        group: Inputs that share a scale.
        method: A name of `edgeq.quantizers.recipes.RECIPES`.
        parts: Names of `PARTS`.
    """

    bits: int
    group: int
    method: str
    parts: tuple[str, ...]

    @property
    def scheme(self) -> Scheme:
        """How the weights are stored."""
        return grid(self.bits, self.group)


def linear_layers(model: Any, parts: Sequence[str]) -> dict[str, Any]:
    """Returns the linear layers of parts by name; patch embedding, tables of tokens, norms and head are none."""
    import torch

    starts = tuple(PARTS[part] for part in parts)
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith(starts)
    }


def stored_bytes(model: Any, precision: Precision | None, float_bits: int = _HALF_BITS) -> float:
    """Returns how many bytes the weights of a model take, with scales of 16 bits and zero points of the weights' bits.

    Args:
        model: The model.
        precision: Of the parts that are quantized, if any.
        float_bits: Of all other weights.
    """
    total: int = sum(each.numel() for each in model.parameters())
    if precision is None:
        return total * float_bits / 8
    small: int = sum(layer.weight.numel() for layer in linear_layers(model, precision.parts).values())
    per_weight = stored_bits(precision.scheme, precision.group, _HALF_BITS)
    return ((total - small) * float_bits + small * per_weight) / 8


def quantize_parts(model: Any, precision: Precision, run: Callable[[], object]) -> None:
    """Replaces the weights of chosen parts by what few bits hold.

    Args:
        model: The model, which is changed.
        precision: Which parts, and how.
        run: Runs the model on images to calibrate on.
    """
    recipe = get_recipe(precision.method)
    layers = linear_layers(model, precision.parts)
    if not recipe.reads_inputs:
        for layer in layers.values():
            _set_weight(layer, get_weight_method(recipe.method)(_weight(layer), precision.scheme, {}).dequantize())
        return
    for members in _groups(layers, run):
        weights = _rounded([_weight(layer) for layer in members], precision.scheme, recipe, _moments(members[0], run))
        for layer, weight in zip(members, weights, strict=True):
            _set_weight(layer, weight)


def _rounded(
    weights: Sequence[np.ndarray], scheme: Scheme, recipe: Recipe, moments: npt.NDArray[np.float64]
) -> list[np.ndarray]:
    """Returns the weights of layers that read one tensor as few bits hold them, with AWQ's scales taken out again."""
    quantize = get_weight_method(recipe.method)
    scales = np.ones(len(moments), np.float32)
    if recipe.scales_channels:
        scales = search_channel_scales(weights, [scheme] * len(weights), moments)
        moments = moments / np.outer(scales, scales)
    found: list[QuantizedWeight] = [
        quantize(scaled(weight, scheme, scales), scheme, {"second_moments": moments}) for weight in weights
    ]
    return [scaled(each.dequantize(), scheme, 1 / scales) for each in found]


def _groups(layers: Mapping[str, Any], run: Callable[[], object]) -> list[list[Any]]:
    """Returns the layers in the order in which they run, those together that read the same tensor."""
    groups: list[list[Any]] = []
    last: list[Any] = [None]

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        if groups and inputs[0] is last[0]:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        last[0] = inputs[0]

    with _hooked(layers.values(), note):
        run()
    return groups


def _moments(layer: Any, run: Callable[[], object]) -> npt.NDArray[np.float64]:
    """Returns the second moments of what a layer reads, `(K, K)`."""
    statistic = SecondMoments()

    def gather(_layer: Any, inputs: tuple[Any, ...]) -> None:
        statistic.update(inputs[0].detach().numpy())
        raise _ReachedError

    with _hooked([layer], gather), suppress(_ReachedError):
        run()
    return drawn_to_mean(statistic.matrices[0], statistic.rows)


class _ReachedError(Exception):
    """Ends a run of the model behind the layer that was asked for."""


@contextmanager
def _hooked(layers: Iterable[Any], hook: Callable[[Any, tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls a function before each of some layers runs."""
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield


def _weight(layer: Any) -> npt.NDArray[np.float32]:
    return np.asarray(layer.weight.detach().numpy(), np.float32)


def _set_weight(layer: Any, weight: np.ndarray) -> None:
    import torch

    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight, np.float32)))
