"""Quantizes the weights of a torch module layer by layer, each for what it reads behind layers that are quantized.

The module runs once to see which layers read one tensor, and once more for each such group, as far as that group. The
second moments of one tensor are in memory at a time. Weights are those that `edgeq.calibration.quantize_layers` gives
for the same network as an ONNX graph: rounding, scales and moments are the same functions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibration.quantize_layers import as_read, moments_of, quantize_members
from edgeq.calibration.statistics import NonFiniteError, Request, Statistic
from edgeq.calibration.torch_threads import torch_threads
from edgeq.errors import InputError
from edgeq.exporting.jobs import PlannedWeight
from edgeq.progress import progress_bar
from edgeq.quantizers import get_weight_method
from edgeq.quantizers.recipes import Recipe, get_recipe
from edgeq.schemes import PerGroup, Scheme

if TYPE_CHECKING:
    import torch

    from edgeq.quantizers import QuantizedWeight

_ENDS_FROM = 4
"""Fewest bits of the first and the last layer that runs, as in exported files."""


class _Reached(Exception):  # noqa: N818 - no error: what was wanted is known, and the module need not be finished
    """Raised when the last layer whose inputs are wanted has been reached."""


@dataclass(frozen=True)
class QuantizedModule:
    """A torch module with weights of few bits.

    Attributes:
        module: A copy of the module: its layers hold the floats that the integers stand for.
        weights: Layer -> its weight, a matrix `(out, in)`; of a convolution one row per output channel.
        scales: Layer -> what the channels of its input are divided by for this weight, float32; the module's copy
            needs no division, its floats are divided instead.
        left: Linear layers and convolutions that stay in float -> why.
    """

    module: torch.nn.Module
    weights: Mapping[str, QuantizedWeight]
    scales: Mapping[str, np.ndarray]
    left: Mapping[str, str]


@dataclass(frozen=True)
class _Readers:
    """Layers that read one tensor in one way.

    Attributes:
        names: Their names, in the order in which they run.
        request: The statistic of what they read.
    """

    names: list[str]
    request: Request


def quantize_module(
    module: torch.nn.Module,
    inputs: Sequence[tuple[torch.Tensor, ...]],
    *,
    bits: int,
    group_size: int,
    method: str,
    keep: Sequence[str] = (),
    threads: int | None = None,
) -> QuantizedModule:
    """Returns a copy of a module whose linear layers and 2-D convolutions have weights of few bits.

    Args:
        module: The module; it is not changed.
        inputs: What it is called with, once for each entry.
        bits: Of a weight, 2 to 8.
        group_size: Inputs of an output that share a scale.
        method: A name of `edgeq.quantizers.recipes.RECIPES`.
        keep: Layers that stay in float: names, regular expressions, or types such as `Conv2d`.
        threads: CPU threads of torch.

    Raises:
        InputError: an entry of `keep` means no layer, or no layer is left.
    """
    import torch

    recipe = get_recipe(method)
    scheme = Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(group_size, 1))
    changed = copy.deepcopy(module).eval()
    with torch.no_grad(), torch_threads(threads):
        layers = {name: each for name, each in changed.named_modules() if _is_layer(each)}
        groups = _readers(changed, layers, inputs[0])
        order = [name for group in groups for name in group.names]
        left = _left(layers, order, keep, bits)
        if not layers.keys() - left.keys():
            raise InputError("the module: no linear layer or 2-D convolution is left to quantize; keep fewer in float")
        weights: dict[str, QuantizedWeight] = {}
        scales: dict[str, np.ndarray] = {}
        with progress_bar(len(groups), "quantizing weights", unit="tensors") as advance:
            for group in groups:
                members = {
                    name: PlannedWeight(_matrix(layers[name]), scheme) for name in group.names if name not in left
                }
                if members:
                    found, divided = _quantized(changed, layers, group.request, members, inputs, recipe)
                    weights |= found
                    scales |= {} if divided is None else dict.fromkeys(members, divided)
                    for name, quantized in found.items():
                        _set(layers[name], as_read(quantized, divided, group.request))
                advance(1)
    return QuantizedModule(changed, weights, scales, left)


def _quantized(
    module: torch.nn.Module,
    layers: Mapping[str, torch.nn.Module],
    request: Request,
    members: Mapping[str, PlannedWeight],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    recipe: Recipe,
) -> tuple[dict[str, QuantizedWeight], np.ndarray | None]:
    """Returns the weights of layers that read one tensor, and what its channels are divided by."""
    if not recipe.reads_inputs:
        quantize = get_weight_method(recipe.method)
        return {name: quantize(*each, {}) for name, each in members.items()}, None
    statistic = request.start()
    try:
        for each in inputs:
            _gather(module, layers[next(iter(members))], each, statistic)
        moments = moments_of(statistic)
    except NonFiniteError:
        moments = None
    return quantize_members(members, moments, recipe, request)


def _gather(
    module: torch.nn.Module, layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], statistic: Statistic
) -> None:
    """Adds what a layer reads to a statistic."""

    def take(_: Any, given: tuple[torch.Tensor, ...], named: Mapping[str, Any]) -> None:
        statistic.update(_input(given, named).numpy())
        raise _Reached

    with _hooked({layer: take}):
        try:
            module(*inputs)
        except _Reached:
            return


def _readers(
    module: torch.nn.Module, layers: Mapping[str, torch.nn.Module], inputs: tuple[torch.Tensor, ...]
) -> list[_Readers]:
    """Returns the layers that run, in their order, those together that read one tensor in one way."""
    tensors: list[torch.Tensor] = []
    found: dict[Request, list[str]] = {}
    called: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, given: tuple[torch.Tensor, ...], named: Mapping[str, Any]) -> None:
            if name in called:
                return
            called.add(name)
            tensor = _input(given, named)
            number = next((index for index, each in enumerate(tensors) if each is tensor), len(tensors))
            if number == len(tensors):
                tensors.append(tensor)
            found.setdefault(_request(layers[name], str(number)), []).append(name)

        return hook

    with _hooked({layer: note(name) for name, layer in layers.items()}):
        module(*inputs)
    return [_Readers(names, request) for request, names in found.items()]


def _input(given: tuple[torch.Tensor, ...], named: Mapping[str, Any]) -> torch.Tensor:
    """Returns what a layer is called with, by position or by name."""
    tensor: torch.Tensor = given[0] if given else named["input"]
    return tensor


@contextmanager
def _hooked(hooks: Mapping[torch.nn.Module, Callable[..., None]]) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(
    layers: Mapping[str, torch.nn.Module], order: Sequence[str], keep: Sequence[str], bits: int
) -> dict[str, str]:
    """Returns the layers that stay in float, with the reason."""
    left = {name: "it does not run by itself for these inputs" for name in layers if name not in order}
    left |= {
        name: "its padding is not of zeros"
        for name, layer in layers.items()
        if getattr(layer, "padding_mode", "zeros") != "zeros"
    }
    if bits < _ENDS_FROM:
        left |= dict.fromkeys((order[0], order[-1]), f"the first and last layers lose most by {bits} bits")
    for pattern in keep:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise InputError(f"`keep` {pattern!r}: is not a regular expression ({error})") from None
        meant = [
            name
            for name, layer in layers.items()
            if pattern == type(layer).__name__ or expression.fullmatch(name) is not None
        ]
        if not meant:
            raise InputError(f"`keep` {pattern!r}: matches no layer; names look like {', '.join(list(layers)[:5])}")
        left |= dict.fromkeys(meant, f"kept by {pattern!r}")
    return left


def _is_layer(module: torch.nn.Module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear | torch.nn.Conv2d)


def _request(layer: torch.nn.Module, tensor: str) -> Request:
    """Returns the second moments of what a layer reads."""
    import torch

    if not isinstance(layer, torch.nn.Conv2d):
        return Request.of(tensor, "second_moments")
    before, after = zip(*map(_padding, layer.kernel_size, layer.dilation, _both(layer.padding)), strict=True)
    return Request.of(
        tensor, "second_moments", kernel=layer.kernel_size, strides=layer.stride, pads=(*before, *after),
        dilations=layer.dilation, groups=layer.groups,
    )  # fmt: skip


def _both(padding: str | tuple[int, ...]) -> tuple[str, str] | tuple[int, ...]:
    return (padding, padding) if isinstance(padding, str) else padding


def _padding(kernel: int, dilation: int, padding: str | int) -> tuple[int, int]:
    """Returns what an axis is padded with before and after, as torch resolves `valid` and `same`."""
    if isinstance(padding, int):
        return padding, padding
    whole = dilation * (kernel - 1) if padding == "same" else 0
    return whole // 2, whole - whole // 2


def _matrix(layer: torch.nn.Module) -> np.ndarray:
    weight = layer.get_parameter("weight").numpy(force=True)
    return np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)


def _set(layer: torch.nn.Module, matrix: np.ndarray) -> None:
    """Gives a layer another weight; one that it shared stays as it is elsewhere."""
    import torch

    weight = layer.get_parameter("weight")
    changed = torch.from_numpy(matrix.reshape(weight.shape)).to(weight.dtype)
    layer.register_parameter("weight", torch.nn.Parameter(changed, requires_grad=weight.requires_grad))
