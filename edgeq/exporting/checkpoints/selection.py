"""Which layers of a checkpoint get few bits, told by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import InputError
from edgeq.exporting.checkpoints.stored import FLOATS, StoredTensor

_TABLE = "embedding"
"""The part that turns tokens into vectors."""

_PARTS: Mapping[str, frozenset[str]] = {
    "connector": frozenset(
        {"multi_modal_projector", "connector", "merger", "qformer", "language_projection", "mm_projector"}
    ),
    "vision": frozenset({"vision_tower", "vision_model", "visual", "image_encoder"}),
    _TABLE: frozenset({"embed_tokens", "embed_positions", "wte", "wpe", "word_embeddings", "shared"}),
    "lm_head": frozenset({"lm_head", "embed_out"}),
}
"""Part -> the modules that families call so; whatever is in none of them is the decoder's."""

DECODER = "decoder"

DEFAULT_SKIP = ("vision", "connector", "lm_head")
"""Left in float unless told otherwise: low bits in the vision part make a model blind while it stays fluent, and the
head decides about every token. Tables of words are always left: no layout has them."""

_WEIGHT = ".weight"
_RANKS = {1: "Norm", 2: "Linear", 3: "Conv", 4: "Conv", 5: "Conv"}


@dataclass(frozen=True)
class Layers:
    """The layers of a checkpoint.

    Attributes:
        quantized: Modules that get few bits, in the files' order.
        left: What is left in float, as short as can be said: a part's module, or the path of one.
    """

    quantized: tuple[str, ...]
    left: tuple[str, ...]


def part_of(module: str) -> str:
    """Returns the part that a module belongs to: `vision`, `connector`, `embedding`, `lm_head` or `decoder`."""
    within = set(module.split("."))
    return next((part for part, names in _PARTS.items() if within & names), DECODER)


def select_layers(tensors: Mapping[str, StoredTensor], skip: Sequence[str] | None = None) -> Layers:
    """Returns which linear layers get few bits.

    Args:
        tensors: Of the checkpoint.
        skip: What stays in float: parts (`vision`, `connector`, `lm_head`, `decoder`), names of modules or what they
            begin with, types (`Linear`, `Conv`, `Embedding`), regular expressions of whole names; by default
            `DEFAULT_SKIP`.

    Raises:
        InputError: an entry matches nothing, or nothing is left.
    """
    modules = {name.removesuffix(_WEIGHT): tensor for name, tensor in tensors.items() if name.endswith(_WEIGHT)}
    types = {name: _type_of(name, tensor) for name, tensor in modules.items()}
    linear = [name for name, tensor in modules.items() if types[name] == "Linear" and tensor.kind in FLOATS]
    skipped = {name for name in linear if skip is None and part_of(name) in DEFAULT_SKIP}
    for entry in skip or ():
        named = _named(entry, types)
        if not named and entry not in _PARTS:
            raise InputError(
                f"`skip` {entry!r}: no module of the model is called so; wanted one of the parts {', '.join(_PARTS)} "
                f"or {DECODER}, a type, a name or its beginning, such as {_example(linear)}, or a regular expression"
            )
        skipped.update(named)
    quantized = tuple(name for name in linear if name not in skipped)
    if not quantized:
        raise InputError("`skip`: leaves no linear layer of the model to quantize; omit an entry")
    return Layers(quantized, _shortest([name for name in linear if name in skipped]))


def _type_of(module: str, tensor: StoredTensor) -> str:
    if part_of(module) == _TABLE or _TABLE in module.rpartition(".")[2]:
        return "Embedding"
    return _RANKS.get(len(tensor.shape), "other")


def _named(entry: str, types: Mapping[str, str]) -> set[str]:
    """Returns the modules that an entry of a skip list means."""
    if entry in _PARTS or entry == DECODER:
        return {name for name in types if part_of(name) == entry}
    if entry in types.values():
        return {name for name, kind in types.items() if kind == entry}
    prefixed = {name for name in types if name == entry or name.startswith(f"{entry}.")}
    if prefixed:
        return prefixed
    try:
        return {name for name in types if re.fullmatch(entry, name)}
    except re.error as error:
        raise InputError(f"`skip` {entry!r}: is not a regular expression ({error})") from error


def _shortest(names: Collection[str]) -> tuple[str, ...]:
    """Returns the modules of whole parts for what lies in them, and the names of all others, each once."""
    found = []
    for name in names:
        components = name.split(".")
        of_part = _PARTS.get(part_of(name), frozenset())
        found.append(next((component for component in components if component in of_part), name))
    return tuple(dict.fromkeys(found))


def _example(names: Sequence[str]) -> str:
    return names[0] if names else "model.layers.0"
