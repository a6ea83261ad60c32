"""The components of a network by its graph alone: backbone, neck and heads.

Rules, by number:

1. A last layer is a layer with a weight behind which there is no other.
2. A layer belongs to the heads if it is a last layer, or leads to some of the last layers and not to all of them.
3. Of the others those behind an operator that enlarges a map (Resize, Upsample, ConvTranspose) are the neck.
4. The rest is the backbone.

So a classifier has a backbone and a head of one layer, a detector on feature pyramids all three. The stages of an SSD
that feed some of its heads alone count as heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from edgeq.bundles.contents import PartName
from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.exporting.planning.wide_ends import last_layers

if TYPE_CHECKING:
    import onnx_ir as ir

COMPONENTS = ("backbone", "neck", "head", *get_args(PartName))
"""What components are called, in the order of a network; those of a model in parts are its parts."""

_ENLARGES = frozenset({"Resize", "Upsample", "ConvTranspose"})


def find_components(model: ir.Model) -> dict[str, str]:
    """Returns name of a layer with a weight -> its component: `backbone`, `neck` or `head`."""
    last = sorted(last_layers(model))
    leads_to = _last_layers_behind(model, last)
    behind = _behind_enlarging(model)
    found = {}
    for node in model.graph:
        if weight_of(node) is None:
            continue
        name = str(node.name)
        if name in last or 0 < len(leads_to[name]) < len(last):
            found[name] = "head"
        else:
            found[name] = "neck" if name in behind else "backbone"
    return found


def _last_layers_behind(model: ir.Model, last: list[str]) -> dict[str, frozenset[str]]:
    """Returns name of a node -> the last layers that it leads to."""
    of_value: dict[int, frozenset[str]] = {}
    found: dict[str, frozenset[str]] = {}
    for node in reversed(list(model.graph)):
        reached = frozenset[str]().union(*(of_value.get(id(value), frozenset()) for value in node.outputs))
        found[str(node.name)] = reached
        if node.name in last:
            reached |= {str(node.name)}
        for value in data_inputs(node):
            of_value[id(value)] = of_value.get(id(value), frozenset()) | reached
    return found


def _behind_enlarging(model: ir.Model) -> set[str]:
    """Returns the names of the nodes that enlarge a map, and of all behind them."""
    values: set[int] = set()
    found = set()
    for node in model.graph:
        if node.op_type in _ENLARGES or any(id(value) in values for value in data_inputs(node)):
            found.add(str(node.name))
            values.update(map(id, node.outputs))
    return found
