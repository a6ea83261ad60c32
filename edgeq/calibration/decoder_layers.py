"""Quantizes a decoder layer by layer in torch: each linear layer for what it reads behind quantized ones.

One layer of the model is in memory at a time: its weights are read when it is reached and dropped when the inputs of
the next one are known. The rest of the decoder is built without values; its table of words is read row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import MissingDependencyError, ModelError
from edgeq.exporting.checkpoints.writer import CheckpointPlan, FinishedLayers, as_stored_weight
from edgeq.memory.config_file import read_config
from edgeq.progress import progress_bar
from edgeq.quantizers import QuantizedWeight, get_weight_method
from edgeq.quantizers.channel_scales import search_channel_scales
from edgeq.quantizers.error_feedback import drawn_to_mean
from edgeq.quantizers.recipes import Recipe

if TYPE_CHECKING:
    import torch

_TOLERANCE = 1e-3
"""Largest change of a layer's output by scales that are folded, over its largest output."""


class _Reached(Exception):  # noqa: N818 - no error: what was wanted is known, and the layer need not be finished
    """Raised when the layer whose inputs are wanted is reached."""


@dataclass
class _Calls:
    """What goes through the layers.

    Attributes:
        hidden: The next layer's inputs, each `(1, tokens, width)`.
        keywords: What each layer is called with besides.
    """

    hidden: list[torch.Tensor]
    keywords: Sequence[Mapping[str, Any]]


def quantize_decoder(plan: CheckpointPlan, recipe: Recipe, tokens: np.ndarray) -> Iterator[FinishedLayers]:
    """Yields the quantized layers of a decoder, one of its blocks at a time.

    Args:
        plan: Names the layers; those outside of the decoder's blocks are never yielded.
        recipe: How they are quantized.
        tokens: Numbers of tokens to calibrate on, `(sequences, length)`.

    Raises:
        MissingDependencyError: transformers is not installed.
        ModelError: transformers cannot build the model, or the weights do not fit it.
    """
    import torch

    decoder = _built(plan)
    prefix = _prefix(plan)
    with torch.no_grad():
        calls = _first_calls(plan, decoder, prefix, tokens)
        with progress_bar(len(decoder.layers), "quantizing weights", unit="blocks") as advance:
            for number, layer in enumerate(decoder.layers):
                path = f"{prefix}layers.{number}"
                _fill(layer, plan, f"{path}.")
                yield _quantize_block(layer, path, number, calls, plan, recipe)
                calls.hidden = [_run(layer, each, calls.keywords[number]) for each in calls.hidden]
                layer.to_empty(device="meta")
                advance(1)


def blocks_of(plan: CheckpointPlan) -> tuple[str, ...]:
    """Returns the layers of a plan that `quantize_decoder` yields."""
    prefix = _prefix(plan)
    return tuple(module for module in plan.layers.quantized if module.startswith(f"{prefix}layers."))


def _quantize_block(
    layer: torch.nn.Module, path: str, number: int, calls: _Calls, plan: CheckpointPlan, recipe: Recipe
) -> FinishedLayers:
    """Returns the weights of a block, which then has them."""
    planned = {name: module for name, module in layer.named_modules() if f"{path}.{name}" in plan.layers.quantized}
    weights: dict[str, QuantizedWeight] = {}
    others: dict[str, np.ndarray] = {}
    quantize = get_weight_method(recipe.method)
    for names in _readers(layer, planned, calls, number):
        members = [planned[name] for name in names]
        moments = _moments(layer, members[0], calls, number)
        matrices = [member.weight.numpy() for member in members]
        scaled = None
        if recipe.scales_channels:
            scales = search_channel_scales(matrices, [plan.scheme] * len(matrices), moments)
            scaled = _folded(layer, members, scales, calls, number)
        if scaled is not None:
            moments = moments / np.outer(scales, scales)
            others |= {f"{path}.{name}": array for name, array in scaled.items()}
        for name, member in zip(names, members, strict=True):
            found = quantize(member.weight.numpy(), plan.scheme, {"second_moments": moments})
            _set(member, "weight", as_stored_weight(found))
            weights[f"{path}.{name}"] = found
    return FinishedLayers(weights, others)


def _readers(
    layer: torch.nn.Module, planned: Mapping[str, torch.nn.Module], calls: _Calls, number: int
) -> list[list[str]]:
    """Returns the linear layers of a block in the order in which they run, those together that read one tensor."""
    read: list[tuple[torch.Tensor, list[str]]] = []

    def note(name: str) -> Any:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            known = next((names for tensor, names in read if tensor is inputs[0]), None)
            if known is None:
                read.append((inputs[0], [name]))
            else:
                known.append(name)

        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in planned.items()]
    try:
        _run(layer, calls.hidden[0], calls.keywords[number])
    finally:
        for each in hooks:
            each.remove()
    return [names for _, names in read]


def _moments(layer: torch.nn.Module, module: torch.nn.Module, calls: _Calls, number: int) -> npt.NDArray[np.float64]:
    """Returns the second moments of what a linear layer reads, `(K, K)`, positive definite."""
    total: torch.Tensor | None = None
    rows = 0

    def gather(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal total, rows
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        product = flat.T @ flat
        total = product if total is None else total.add_(product)
        rows += len(flat)
        raise _Reached

    hook = module.register_forward_pre_hook(gather)
    try:
        for hidden in calls.hidden:
            try:
                _run(layer, hidden, calls.keywords[number])
            except _Reached:
                continue
    finally:
        hook.remove()
    assert total is not None  # noqa: S101 - `_readers` has seen the layer run
    if not total.isfinite().all():
        raise ModelError("a layer of the model reads values that are not finite; check its weights")
    return drawn_to_mean(total.numpy(), rows)


def _folded(
    layer: torch.nn.Module, members: Sequence[torch.nn.Module], scales: np.ndarray, calls: _Calls, number: int
) -> dict[str, np.ndarray] | None:
    """Multiplies the members' inputs by scales and divides the norm before by them; returns the norm's new tensors.

    `None`, with nothing changed, where no norm gives what the members read, or others read it too: the block then
    computes something else.
    """
    import torch

    if (scales == 1).all():
        return None
    hidden, keywords = calls.hidden[0], calls.keywords[number]
    given: list[tuple[str, torch.nn.Module, torch.Tensor]] = []
    taken: list[torch.Tensor] = []
    hooks = [members[0].register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))]
    for name, module in layer.named_modules():
        parameter = getattr(module, "weight", None)
        if parameter is not None and parameter.shape == scales.shape:
            hooks.append(module.register_forward_hook(lambda m, _, output, n=name: given.append((n, m, output))))
    try:
        wanted = _run(layer, hidden, keywords)
    finally:
        for each in hooks:
            each.remove()
    norm = next(((name, module) for name, module, output in given if output is taken[0]), None)
    if norm is None:
        return None
    name, module = norm
    factors = torch.from_numpy(scales)
    before = {key: parameter.detach().clone() for key, parameter in module.named_parameters()}
    matrices = [member.get_parameter("weight").detach().clone() for member in members]
    changed = {f"{name}.{key}": (value / factors).numpy() for key, value in before.items()}
    for key, value in before.items():
        _set(module, key, (value / factors).numpy())
    for member, matrix in zip(members, matrices, strict=True):
        _set(member, "weight", (matrix * factors).numpy())
    found = _run(layer, hidden, keywords)
    if float((found - wanted).abs().max()) <= _TOLERANCE * float(wanted.abs().max()):
        return changed
    for key, value in before.items():
        _set(module, key, value.numpy())
    for member, matrix in zip(members, matrices, strict=True):
        _set(member, "weight", matrix.numpy())
    return None


def _run(layer: torch.nn.Module, hidden: torch.Tensor, keywords: Mapping[str, Any]) -> torch.Tensor:
    found = layer(hidden, **keywords)
    return found[0] if isinstance(found, tuple) else found  # type: ignore[no-any-return]


def _built(plan: CheckpointPlan) -> Any:
    """Returns the decoder of the model, with its blocks, without values."""
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError("transformers", "language", "reading what a decoder's layers are given") from error
    import torch

    file = read_config(plan.folder)
    kind: Any = getattr(transformers, file.architecture, None)
    try:
        config = transformers.AutoConfig.for_model(**file.document)
        with torch.device("meta"):
            decoder = kind._from_config(config).get_decoder()
        for owner, module in _with_buffers(decoder):
            # Tables that are computed, such as those of rotary positions, are in no file.
            setattr(owner[0], owner[1], type(module)(module.config))
        layers = decoder.layers
    # Descriptions that contradict themselves raise errors of many kinds.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{plan.folder}: transformers gives no decoder to read the inputs of layers from ({reason[:200]}); choose "
            "`weight_method` rtn"
        ) from error
    assert len(layers)  # noqa: S101 - a description without layers is refused by transformers
    return decoder.eval()


def _with_buffers(decoder: torch.nn.Module) -> list[tuple[tuple[torch.nn.Module, str], Any]]:
    """Returns the modules with computed buffers, each with the module that holds it and its name there."""
    return [
        ((owner, name), module)
        for owner in decoder.modules()
        for name, module in owner.named_children()
        if next(module.buffers(recurse=False), None) is not None
    ]


def _prefix(plan: CheckpointPlan) -> str:
    """Returns what the names of the decoder's tensors begin with: `model.`."""
    found = {name.partition("layers.0.")[0] for name in plan.layers.quantized if "layers.0." in name}
    if len(found) != 1:
        raise ModelError(
            f"{plan.folder}: has {len(found)} stacks of `layers.0` to quantize, and inputs are read for one, the "
            "decoder's; leave others in float with `skip`, or choose `weight_method` rtn"
        )
    return found.pop()


def _first_calls(plan: CheckpointPlan, decoder: Any, prefix: str, tokens: np.ndarray) -> _Calls:
    """Returns what the first layer is given, and how each is called."""
    import torch

    table = plan.tensors.get(f"{prefix}embed_tokens.weight")
    if table is None:
        raise ModelError(f"{plan.folder}: has no {prefix}embed_tokens.weight to look tokens up in")
    if tokens.min() < 0 or tokens.max() >= table.shape[0]:
        raise ModelError(f"{plan.folder}: knows {table.shape[0]} tokens, and `calib` holds number {tokens.max()}")
    for name, child in decoder.named_children():
        if name not in ("layers", "embed_tokens"):
            _fill(child, plan, f"{prefix}{name}.")
    known, places = np.unique(tokens, return_inverse=True)
    rows = torch.from_numpy(table.read_rows(known.tolist()).astype(np.float32))[places.reshape(tokens.shape)]

    keywords: list[Mapping[str, Any]] = []
    hidden: list[torch.Tensor] = []

    def record(_: Any, inputs: tuple[torch.Tensor, ...], given: Mapping[str, Any]) -> None:
        if not keywords:
            hidden.append(inputs[0] if inputs else given["hidden_states"])
        keywords.append({key: value for key, value in given.items() if key != "hidden_states"})

    class StandIn(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.attention_type = getattr(layer, "attention_type", None)

        def forward(self, hidden_states: torch.Tensor, **_: Any) -> torch.Tensor:
            return hidden_states

    layers = decoder.layers
    stand_ins = [StandIn(layer) for layer in layers]
    decoder.layers = torch.nn.ModuleList(stand_ins)
    hooks = [each.register_forward_pre_hook(record, with_kwargs=True) for each in stand_ins]
    try:
        for sequence in rows:
            keywords.clear()  # all sequences are of one length, and layers are called alike for each
            decoder(inputs_embeds=sequence[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        decoder.layers = layers
    return _Calls(hidden, keywords)


def _fill(module: torch.nn.Module, plan: CheckpointPlan, prefix: str) -> None:
    """Gives a module the values that the files have for it."""
    for name, _ in list(module.named_parameters()):
        tensor = plan.tensors.get(f"{prefix}{name}")
        if tensor is None:
            raise ModelError(f"{plan.folder}: holds no {prefix}{name}, which its config.json asks for")
        owner, _, key = name.rpartition(".")
        _set(module.get_submodule(owner), key, tensor.read().astype(np.float32))


def _set(module: torch.nn.Module, key: str, array: np.ndarray) -> None:
    import torch

    setattr(module, key, torch.nn.Parameter(torch.from_numpy(array), requires_grad=False))
