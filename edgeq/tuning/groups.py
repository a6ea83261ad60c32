"""Layers and blocks whose precision is changed together.

Rules, by number:

1. A layer is a node that the target runs in INT8. The sum of a residual belongs to the layer before it: it runs in INT8
   only behind one.
2. A layer of a transformer is called by its block and its part (`vit.0.fc1`), any other by its node. The two products
   of an attention are one layer (`vit.0.attention`).
3. A block is an encoder block of a transformer; or else what has a scope in common in the names of the nodes
   (`/layer1/layer1.0`); or else what stands between two sums of residuals, called by its first layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeq.exporting.graphs.transformer import Transformer
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.selection import Selection

By = Literal["layer", "block"]
"""What a group is."""


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose precision is changed together.

    Attributes:
        name: What people call it.
        layers: Names of the nodes, in the order of the network.
    """

    name: str
    layers: tuple[str, ...]


def find_groups(selection: Selection, by: By) -> tuple[LayerGroup, ...]:
    """Returns the groups of the layers that a selection runs in INT8, in the order of the network.

    Args:
        selection: What a target quantizes.
        by: Whether a group is a layer or a block.
    """
    layers = _layers([decision for decision in selection.decisions if not decision.is_float])
    name_of = _layer_name if by == "layer" else _block_name(layers, selection.transformer)
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(name_of(layer, selection.transformer), []).extend(each.name for each in layer)
    return tuple(LayerGroup(name, tuple(nodes)) for name, nodes in groups.items())


_Layer = Sequence[LayerDecision]
"""A layer and the sums behind it."""


def _layers(decisions: Sequence[LayerDecision]) -> list[list[LayerDecision]]:
    """Returns each layer with the sums behind it (rule 1)."""
    layers: list[list[LayerDecision]] = []
    for decision in decisions:
        if decision.op_type == "Add" and layers:
            layers[-1].append(decision)
        else:
            layers.append([decision])
    return layers


def _layer_name(layer: _Layer, transformer: Transformer) -> str:
    role = transformer.roles.get(layer[0].name)
    if role is None:
        return layer[0].name
    part = "attention" if role.is_product else role.part
    return f"vit.{role.block}.{part}"


def _block_name(layers: Sequence[_Layer], transformer: Transformer) -> Callable[[_Layer, Transformer], str]:
    """Returns what names the block of a layer (rule 3)."""
    scopes = {layer[0].name: _scope(layer[0].name) for layer in layers}
    told = 1 < len(set(scopes.values())) < len(layers)
    blocks = scopes if told else _between_sums(layers)

    def name_of(layer: _Layer, _transformer: Transformer) -> str:
        role = transformer.roles.get(layer[0].name)
        return blocks[layer[0].name] if role is None else f"vit.{role.block}"

    return name_of


def _scope(name: str) -> str:
    """Returns what holds a node's module: `/layer1/layer1.0` of `/layer1/layer1.0/conv1/Conv`."""
    return "/".join(name.split("/")[:-2])


def _between_sums(layers: Sequence[_Layer]) -> dict[str, str]:
    """Returns layer -> the first layer behind the last sum before it."""
    ended = itertools.accumulate((len(layer) > 1 for layer in layers), initial=0)
    numbers = [number for _, number in zip(layers, ended, strict=False)]
    first: dict[int, str] = {}
    for layer, number in zip(layers, numbers, strict=True):
        first.setdefault(number, layer[0].name)
    return {layer[0].name: first[number] for layer, number in zip(layers, numbers, strict=True)}
