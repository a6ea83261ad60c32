"""Keeps 8 bits for the weights of first and last layers, where 4 cost most and save least.

Every method of 4 bits does so ("BRECQ", Li et al., 2021, section 4): the first layer reads the image, the last gives
the scores, and both are small.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import data_inputs, weight_of
from edgeq.schemes import INT8_WEIGHT

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.planning.selection import Selection

_BITS = 8


def with_wide_ends(model: ir.Model, selection: Selection, wide: Collection[str] | None = None) -> Selection:
    """Returns the selection with 8 bits for narrower weights of layers that no weighted layer precedes or follows.

    Args:
        model: The float graph.
        selection: What is quantized.
        wide: Names of other layers to keep 8 bits for, instead of those.
    """
    ends = first_layers(model) | last_layers(model) if wide is None else wide
    decisions = tuple(
        replace(each, scheme=replace(each.scheme, weight=INT8_WEIGHT))
        if each.name in ends and each.scheme.weight.is_integer and each.scheme.weight.bits < _BITS
        else each
        for each in selection.decisions
    )
    return replace(selection, decisions=decisions)


def first_layers(model: ir.Model) -> set[str]:
    """Returns the names of the weighted layers before which no other stands."""
    behind: set[int] = set()
    found = set()
    for node in model.graph:
        is_behind = any(id(value) in behind for value in data_inputs(node))
        if weight_of(node) is not None:
            if not is_behind:
                found.add(str(node.name))
            is_behind = True
        if is_behind:
            behind.update(map(id, node.outputs))
    return found


def last_layers(model: ir.Model) -> set[str]:
    """Returns the names of the weighted layers behind which no other stands."""
    before: set[int] = set()
    found = set()
    for node in reversed(list(model.graph)):
        is_before = any(id(value) in before for value in node.outputs)
        if weight_of(node) is not None:
            if not is_before:
                found.add(str(node.name))
            is_before = True
        if is_before:
            before.update(map(id, data_inputs(node)))
    return found
