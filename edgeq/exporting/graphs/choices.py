"""Operators by which a graph chooses among its own values: the best scores, or boxes that do not overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.subgraphs import captures, nodes_inside

if TYPE_CHECKING:
    import onnx_ir as ir

CHOOSES = frozenset({"NonMaxSuppression", "TopK", "NonZero", "Unique", "ArgMax", "ArgMin"})
"""Operators whose outputs are positions, which one step of an input may change altogether."""


def chosen_outputs(model: ir.Model) -> frozenset[str]:
    """Returns the names of the outputs that depend on choices: files of lower precision may choose others."""
    chosen: set[int] = set()
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        given += [capture.value for capture in captures(node, model.graph)]
        kinds = {node.op_type, *(inner.op_type for inner in nodes_inside(node))}
        if kinds & CHOOSES or any(id(value) in chosen for value in given):
            chosen.update(id(value) for value in node.outputs)
    return frozenset(str(value.name) for value in model.graph.outputs if id(value) in chosen)
