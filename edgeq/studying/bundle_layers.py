"""The layers of a model in parts, by the names that its modules have in transformers.

Rules, by number:

1. The component of a layer is its part. Layers are called `part/name`.
2. A number in a name is that of a block: `encoder.layers.3.self_attn.q_proj` lies in block 3. Groups of blocks cut the
   blocks of each part into as many parts of equal length; a part without blocks is cut layer by layer.
3. Within a block, names with `attn` or `attention` are attention, and all others feed-forward.
4. Outside blocks, what comes before the first block is `first` and what comes behind the last one `last`. All layers of
   a part without blocks, as a connector of two layers is, are feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.planning.low_bit import as_matrix
from edgeq.studying.layers import StudyLayer, block_name, changeable_nodes, group_of

if TYPE_CHECKING:
    import onnx_ir as ir

SEPARATOR = "/"
"""Between the name of a part and that of a layer in its graph."""

_BLOCK = re.compile(r"(?:^|\.)(\d+)(?=\.)")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def find_bundle_layers(graphs: Mapping[str, ir.Model], blocks: int) -> tuple[StudyLayer, ...]:
    """Returns the layers of a model in parts that a study may change, in the order in which they run.

    Args:
        graphs: Name of a part -> its float graph.
        blocks: Number of the groups of blocks of each part.
    """
    found: list[StudyLayer] = []
    for part, graph in graphs.items():
        nodes = changeable_nodes(graph)
        places = places_of([str(node.name) for node in nodes], blocks)
        for node, (group, kind) in zip(nodes, places, strict=True):
            weight = weight_of(node)
            assert weight is not None and node.inputs[1] is not None  # noqa: S101 - a layer of a study has one
            outputs, inputs = as_matrix(node, weight).shape
            name, constant = f"{part}{SEPARATOR}{node.name}", str(node.inputs[1].name)
            found.append(StudyLayer(name, constant, part, block_name(group, blocks), kind, outputs, inputs))
    return tuple(found)


def places_of(names: Sequence[str], groups: int) -> list[tuple[int, str]]:
    """Returns group of blocks and kind of each layer of a part (rules 2 to 4).

    Args:
        names: Their names, in the order in which they run.
        groups: Number of the groups of blocks.
    """
    blocks = [int(match[1]) if (match := _BLOCK.search(name)) else None for name in names]
    known = [block for block in blocks if block is not None]
    if not known:
        return [(group_of(index, len(names), groups), "feed-forward") for index in range(len(names))]
    begin = next(index for index, block in enumerate(blocks) if block is not None)
    count = max(known) + 1
    places = []
    for index, (name, block) in enumerate(zip(names, blocks, strict=True)):
        if block is None:
            places.append((0, "first") if index < begin else (groups - 1, "last"))
        else:
            places.append((group_of(block, count, groups), _kind(name)))
    return places


def _kind(name: str) -> str:
    return "attention" if _ATTENTION.search(name) else "feed-forward"


def in_part(name: str, part: str) -> str | None:
    """Returns what a layer is called in the graph of a part; `None` if it is of another part."""
    prefix = f"{part}{SEPARATOR}"
    return name.removeprefix(prefix) if name.startswith(prefix) else None
