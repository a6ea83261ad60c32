"""Operators of a graph that only move values: their output holds nothing that their input does not hold, or zero."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

RESHAPES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators that hand on all values of their first input, each once."""

REARRANGES = RESHAPES | {"Slice", "Gather", "Split"}
"""Operators that put values of their first input elsewhere; `edgeq.exporting.graphs.channels` follows each value."""

JOINS = frozenset({"Concat"})
"""Operators that move the values of all their inputs; the others move those of the first."""

MOVES_VALUES = REARRANGES | JOINS | {"MaxPool", "Expand", "DepthToSpace", "SpaceToDepth", "Resize", "Pad"}
"""Operators that only move values; `moves_values` says it of a node, whose attributes count too."""

TFLITE_MOVES_VALUES = frozenset(
    {
        "MAX_POOL_2D", "PAD", "RESHAPE", "TRANSPOSE", "CONCATENATION", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER",
        "RESIZE_NEAREST_NEIGHBOR", "PACK", "UNPACK", "MIRROR_PAD", "SPACE_TO_DEPTH", "AVERAGE_POOL_2D",
        "RESIZE_BILINEAR",
    }
)  # fmt: skip
"""TFLite's operators whose outputs lie within the values of their inputs (or zero), and that it runs on one grid."""

ATEN_REARRANGES = frozenset(
    {
        "aten::alias", "aten::chunk", "aten::clone", "aten::contiguous", "aten::detach", "aten::dropout",
        "aten::flatten", "aten::permute", "aten::reshape", "aten::select", "aten::slice", "aten::split",
        "aten::split_with_sizes", "aten::squeeze", "aten::transpose", "aten::unbind", "aten::unflatten",
        "aten::unsqueeze", "aten::view",
    }
)  # fmt: skip
"""torch's operators that only move values of their first argument, each to one place at most."""


def moves_values(node: ir.Node) -> bool:
    """Returns whether every output value of a node is one of its input values, or zero, which every grid holds."""
    if node.op_type == "Resize":
        return "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    if node.op_type == "Pad":
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
        return mode != "constant" or len(node.inputs) < 3 or (fill is not None and not fill.any())
    return node.op_type in MOVES_VALUES or (node.op_type == "Conv" and _selects_channels(node))


def _selects_channels(node: ir.Node) -> bool:
    """Returns whether a convolution only hands on some channels of its input, as `fold_channel_selection` writes it."""
    weight = constant(node.inputs[1]) if len(node.inputs) == 2 else None
    if weight is None or math.prod(weight.shape[2:]) != 1 or any(name in node.attributes for name in ("pads", "group")):
        return False
    is_one = weight.reshape(len(weight), -1) == 1
    return bool((is_one.sum(axis=1) == 1).all()) and int(np.count_nonzero(weight)) == len(weight)


def moved_inputs(node: ir.Node) -> list[ir.Value]:
    """Returns the inputs of a moving node whose values it moves, constants among them; no shapes, no indices."""
    given = node.inputs if node.op_type in JOINS else node.inputs[:1]
    return list({id(value): value for value in given if value is not None}.values())


def moved_from(value: ir.Value, among: Set[str] = MOVES_VALUES) -> ir.Value:
    """Returns the tensor whose values are only moved on the way to `value`; `value` itself if none is.

    Args:
        value: Where to begin.
        among: Operators to look through; a join only where it has one input.
    """
    while (node := value.producer()) is not None and node.op_type in among and moves_values(node):
        given = moved_inputs(node)
        if len(given) != 1:
            break
        value = given[0]
    return value


def sources_of(value: ir.Value) -> list[ir.Value]:
    """Returns the computed tensors and constants whose values are moved and joined to become `value`, each once."""
    found: list[ir.Value] = []
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        producer = one.producer()
        if producer is not None and moves_values(producer):
            waiting += moved_inputs(producer)
        else:
            found.append(one)
    return found


def ends_of(value: ir.Value | None) -> tuple[float, float] | None:
    """Returns the least and the largest value of a constant, zero among them; `None` for what is computed."""
    array = constant(value)
    if array is None or array.dtype.kind != "f":
        return None
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
