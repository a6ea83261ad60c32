"""Models that return more than tensors, as those of `transformers` and torchvision's detectors do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeq.errors import ModelError
from edgeq.models.torchvision_detectors import wrap_detector

_Path = tuple[Any, ...]
"""Keys and indices from what a model returns to one tensor in it."""

CHOSEN = {
    "logits": "logits",
    "image_embeds": "embedding",
    "pooler_output": "embedding",
    "last_hidden_state": "last_hidden_state",
}
"""Fields of an output of `transformers` -> our name of it. The first one that is there is taken."""

BOXES = "pred_boxes"
"""What `transformers`' detectors (DETR, YOLOS) return with their `logits`; neither is of use without the other."""


def tensor_outputs(module: nn.Module, example: Tensor) -> nn.Module:
    """Returns the module itself where it returns a tensor or a tuple of them, otherwise one that does.

    Of a mapping or an object with attributes (`transformers`' `ModelOutput`, a dataclass), the first of `CHOSEN` is the
    only output: class scores before embeddings, a projected embedding before a pooled one, and all tokens last. A
    detector's `logits` keep their `pred_boxes`. Of any other mapping, all its tensors are outputs, under the names of
    their keys. Tuples and lists inside tuples, lists and mappings are flattened. torchvision's detectors are wrapped.

    Args:
        module: In eval mode.
        example: An input `(1, C, H, W)`, which is run through it once.

    Raises:
        ModelError: it returns no tensors, or is a detector of torchvision that cannot be exported.
    """
    wrapped = wrap_detector(module, example)
    if wrapped is not module:
        return wrapped
    try:
        with torch.no_grad():
            returned = module(example)
    # Whoever exports the module runs into the same, and says it with the input's shape.
    except Exception:
        return module
    if isinstance(returned, Tensor):
        return module
    if isinstance(returned, (tuple, list)) and all(isinstance(value, Tensor) for value in returned):
        return module
    paths = _paths(returned)
    if not isinstance(returned, (tuple, list)):
        paths = _chosen(returned) or [path for path in paths if len(path) == 1] or paths
    if not paths:
        fields = ", ".join(str(key) for key, _ in _items(returned)) or "no fields"
        raise ModelError(
            f"{type(module).__name__} returns an object of type {type(returned).__qualname__} ({fields}); wanted a "
            f"tensor, a tuple of tensors, a dict of tensors, or one of the fields {', '.join(CHOSEN)}"
        )
    return _Chosen(module, paths)


class _Chosen(nn.Module):
    """A module's outputs at certain places; one is a tensor, several are a tuple."""

    def __init__(self, network: nn.Module, paths: Sequence[_Path]) -> None:
        super().__init__()
        self.network = network
        self._paths = tuple(paths)
        self.output_names = tuple(_name(path) for path in paths)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        returned = self.network(images)
        tensors = tuple(_at(returned, path) for path in self._paths)
        return tensors[0] if len(tensors) == 1 else tensors


def _chosen(returned: Any) -> list[_Path]:
    """Returns where the first of `CHOSEN` is, and with a detector's logits its boxes."""
    fields = dict(_items(returned))
    for field in CHOSEN:
        if isinstance(fields.get(field), Tensor):
            boxes = field == "logits" and isinstance(fields.get(BOXES), Tensor)
            return [(field,), (BOXES,)] if boxes else [(field,)]
    return []


def _paths(value: Any) -> list[_Path]:
    """Returns where the tensors are inside mappings, tuples and lists, in their order."""
    paths: list[_Path] = []
    for key, item in _items(value):
        if isinstance(item, Tensor):
            paths.append((key,))
        elif isinstance(item, (Mapping, tuple, list)):
            paths += [(key, *inner) for inner in _paths(item)]
    return paths


def _name(path: _Path) -> str:
    if len(path) == 1 and path[0] in CHOSEN:
        return CHOSEN[path[0]]
    return "_".join(str(key) for key in (("output", *path) if isinstance(path[0], int) else path))


def _at(value: Any, path: _Path) -> Any:
    for key in path:
        value = dict(_items(value))[key]
    return value


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Returns the items of a mapping, tuple or list, or the fields of an object as those of a dataclass."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    return list(getattr(value, "__dict__", {}).items())
