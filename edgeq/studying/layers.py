"""The layers of a study: the weights that may have few bits, and where in the network each is.

Rules, by number:

1. A layer is a Conv, or a Gemm or MatMul by a constant matrix, whose weight no other node reads. ConvTranspose and
   stacks of matrices keep their weights.
2. Its kind is `first` if it reads the image and `last` if it gives the scores; else `depthwise` or `convolution`; in a
   transformer `attention` (queries, keys, values, projection) or `feed-forward`; anything else is `linear`.
3. Groups of blocks cut the encoder blocks of a transformer into as many parts of equal length, as `keep` does
   (`vit.front`); what comes before the first block belongs to the first group, what comes behind the last to the last
   one. Without encoder blocks the layers themselves are cut, in the order of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.linear import linear_of, without_channels
from edgeq.exporting.graphs.transformer import Transformer, find_transformer
from edgeq.exporting.planning.low_bit import LINEAR, as_matrix
from edgeq.exporting.planning.wide_ends import first_layers, last_layers
from edgeq.studying.components import find_components

if TYPE_CHECKING:
    import onnx_ir as ir

KINDS = ("first", "convolution", "depthwise", "attention", "feed-forward", "linear", "last")
"""What kinds of layers are called."""

ENDS = ("first", "last")
"""The kinds that a study leaves alone unless it names them: they are few, and lose most."""

_ATTENTION = frozenset({"q", "k", "v", "qk", "qkv", "projection"})
_FEED_FORWARD = frozenset({"fc1", "fc2"})
_THIRDS = ("front", "middle", "end")


@dataclass(frozen=True)
class StudyLayer:
    """A layer whose weight may have few bits.

    Attributes:
        name: Name of the node.
        constant: Name of its weight in the graph.
        component: One of `edgeq.studying.components.COMPONENTS`.
        block: Name of its group of blocks.
        kind: One of `KINDS`.
        outputs: Rows of its weight as a matrix.
        inputs: Columns of it.
    """

    name: str
    constant: str
    component: str
    block: str
    kind: str
    outputs: int
    inputs: int

    @property
    def weights(self) -> int:
        """Numbers in its weight."""
        return self.outputs * self.inputs


def find_layers(model: ir.Model, blocks: int) -> tuple[StudyLayer, ...]:
    """Returns the layers of a cleaned float graph that a study may change, in the order of the network.

    Args:
        model: The graph.
        blocks: Number of the groups of blocks.
    """
    nodes = changeable_nodes(model)
    components, transformer = find_components(model), find_transformer(model)
    first, last = first_layers(model), last_layers(model)
    groups = _groups([str(node.name) for node in nodes], transformer, blocks)
    found = []
    for node, group in zip(nodes, groups, strict=True):
        name, weight = str(node.name), weight_of(node)
        assert weight is not None and node.inputs[1] is not None  # noqa: S101 - rule 1
        outputs, inputs = as_matrix(node, weight).shape
        kind = "first" if name in first else "last" if name in last else _kind(node, transformer)
        found.append(
            StudyLayer(
                name, str(node.inputs[1].name), components[name], block_name(group, blocks), kind, outputs, inputs
            )
        )
    return tuple(found)


def changeable_nodes(model: ir.Model) -> list[ir.Node]:
    """Returns the nodes whose weight a study may change (rule 1), in the order of the network."""
    return [node for node in model.graph if _takes_few_bits(node)]


def group_of(index: int, length: int, groups: int) -> int:
    """Returns which group of blocks a place in a row lies in; group n ends before `(n + 1) * length // groups`."""
    return next(group for group in range(groups) if index < (group + 1) * length // groups)


def block_name(group: int, groups: int) -> str:
    """Returns what a group of blocks is called: `front`, `middle` and `end` of three, `2of5` otherwise."""
    return _THIRDS[group] if groups == len(_THIRDS) else f"{group + 1}of{groups}"


def block_names(groups: int) -> tuple[str, ...]:
    """Returns the names of all groups of blocks."""
    return tuple(block_name(group, groups) for group in range(groups))


def _takes_few_bits(node: ir.Node) -> bool:
    """Returns whether a study may change the weight of a node (rule 1)."""
    weight = weight_of(node)
    if weight is None or node.inputs[1] is None or len(node.inputs[1].uses()) != 1 or weight.dtype != np.float32:
        return False
    if node.op_type not in LINEAR:
        return node.op_type == "Conv" and without_channels(node) is None
    layer = linear_of(node)
    return layer is not None and layer.node is node and without_channels(node) is None


def _kind(node: ir.Node, transformer: Transformer) -> str:
    """Returns the kind of a layer that is neither the first nor the last (rule 2)."""
    role = transformer.roles.get(str(node.name))
    if role is not None and role.part in _ATTENTION:
        return "attention"
    if role is not None and role.part in _FEED_FORWARD:
        return "feed-forward"
    if node.op_type != "Conv":
        return "linear"
    weight = weight_of(node)
    is_depthwise = weight is not None and weight.ndim > 2 and weight.shape[1] == 1 and "group" in node.attributes
    return "depthwise" if is_depthwise and node.attributes["group"].as_int() > 1 else "convolution"


def _groups(names: Sequence[str], transformer: Transformer, groups: int) -> list[int]:
    """Returns the group of blocks of each layer (rule 3)."""
    places = [transformer.roles[name].block if name in transformer.roles else None for name in names]
    known = [place for place in places if place is not None]
    if not known:
        return [group_of(index, len(names), groups) for index in range(len(names))]
    found, latest = [], 0
    for index, place in enumerate(places):
        behind = all(each is None for each in places[index:])
        latest = transformer.blocks - 1 if behind else latest if place is None else place
        found.append(group_of(latest, transformer.blocks, groups))
    return found
