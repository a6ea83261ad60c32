"""Models that return more than tensors, as those of `transformers` do: one of their outputs is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.errors import ModelError

CHOSEN = {
    "logits": "logits",
    "image_embeds": "embedding",
    "pooler_output": "embedding",
    "last_hidden_state": "last_hidden_state",
}
"""Fields of an output of `transformers` -> our name of it. The first one that is there is taken."""


def tensor_outputs(module: nn.Module, example: Tensor) -> nn.Module:
    """Returns the module itself where it returns a tensor or a tuple of them, otherwise one that does.

    Of a mapping or an object with attributes (`transformers`' `ModelOutput`, a dataclass), the first of `CHOSEN` is the
    only output: class scores before embeddings, a projected embedding before a pooled one, and all tokens last. Of any
    other mapping, all its tensors are outputs, under the names of their keys.

    Args:
        module: In eval mode.
        example: An input `(1, C, H, W)`, which is run through it once.

    Raises:
        ModelError: it returns no tensors.
    """
    try:
        with torch.no_grad():
            returned = module(example)
    # Whoever exports the module runs into the same, and says it with the input's shape.
    except Exception:
        return module
    if isinstance(returned, (Tensor, tuple, list)):
        return module
    for field, name in CHOSEN.items():
        if isinstance(_get(returned, field), Tensor):
            return _Chosen(module, (field,), (name,))
    names = tuple(str(key) for key, value in _items(returned) if isinstance(value, Tensor))
    if not names:
        fields = ", ".join(str(key) for key, _ in _items(returned)) or "no fields"
        raise ModelError(
            f"{type(module).__name__} returns an object of type {type(returned).__qualname__} ({fields}); wanted a "
            f"tensor, a tuple of tensors, a dict of tensors, or one of the fields {', '.join(CHOSEN)}"
        )
    return _Chosen(module, names, names)


class _Chosen(nn.Module):
    """A module's outputs of certain names; one is a tensor, several are a tuple."""

    def __init__(self, network: nn.Module, fields: tuple[str, ...], names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self._fields = fields
        self.output_names = names

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        returned = self.network(images)
        tensors = tuple(_get(returned, field) for field in self._fields)
        return tensors[0] if len(tensors) == 1 else tensors


def _get(returned: Any, field: str) -> Any:
    return returned.get(field) if isinstance(returned, Mapping) else getattr(returned, field, None)


def _items(returned: Any) -> list[tuple[Any, Any]]:
    return list(returned.items()) if isinstance(returned, Mapping) else list(getattr(returned, "__dict__", {}).items())
