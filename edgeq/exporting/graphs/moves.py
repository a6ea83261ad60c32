"""Operators of a graph that only move values: their output holds nothing that their input does not hold, or zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

JOINS = frozenset({"Concat"})
"""Operators that move the values of all their inputs; the others move those of the first."""

MOVES_VALUES = JOINS | {
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Expand",
    "DepthToSpace", "SpaceToDepth", "Resize", "Pad",
}  # fmt: skip
"""Operators that only move values; `moves_values` says it of a node, whose attributes count too."""


def moves_values(node: ir.Node) -> bool:
    """Returns whether every output value of a node is one of its input values, or zero, which every grid holds."""
    if node.op_type == "Resize":
        return "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    if node.op_type == "Pad":
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
        return mode != "constant" or len(node.inputs) < 3 or (fill is not None and not fill.any())
    return node.op_type in MOVES_VALUES


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a moving node whose values it moves, constants among them; no shapes, no indices."""
    given = node.inputs if node.op_type in JOINS else node.inputs[:1]
    return list({id(value): value for value in given if value is not None}.values())


def ends_of(value: ir.Value) -> tuple[float, float] | None:
    """Returns the least and the largest value of a constant, zero among them; `None` for what is computed."""
    array = constant(value)
    if array is None or array.dtype.kind != "f":
        return None
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
