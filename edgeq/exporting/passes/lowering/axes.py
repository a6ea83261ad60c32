"""Axes and lengths that older opsets take as attributes. Exact."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.exporting.passes.node_builder import (
    NodeBuilder,
    Rule,
    attribute,
    dims,
    input_at,
    known_ints,
    set_attribute,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx_ir as ir

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def _reduction(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    axes = input_at(node, 1)
    numbers = () if axes is None else known_ints(axes)
    if numbers is None:
        make.refuse("has computed axes, which an opset below 18 cannot say; export the model with constant axes")
    noop = attribute(node, "noop_with_empty_axes", 0)
    if not numbers and noop:
        return node.inputs[0]
    node.resize_inputs(1)
    set_attribute(node, "axes", numbers or None)
    set_attribute(node, "noop_with_empty_axes", None)
    return None


def _slices(node: ir.Node, make: NodeBuilder) -> Sequence[ir.Value] | None:
    """Slices of known lengths; else the even Split of opset 13, or the one whose lengths are computed."""
    axis = attribute(node, "axis", 0)
    lengths = [None if (shape := dims(output)) is None else shape[axis] for output in node.outputs]
    ends = list(itertools.accumulate(length for length in lengths if length is not None))
    if len(ends) < len(node.outputs):
        if input_at(node, 1) is None:
            make.refuse("divides a free length evenly, which an opset below 18 cannot say; fix the input's shape")
        return None
    pieces = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        pieces.append(make("Slice", node.inputs[0], make.ints(start), make.ints(end), make.ints(axis)))
    return pieces


def _without_dilations(node: ir.Node, make: NodeBuilder) -> None:
    if any(each != 1 for each in attribute(node, "dilations", ())):
        make.refuse("has dilations, which older opsets cannot say; give `opset` 19 or replace it by a Conv")
    set_attribute(node, "dilations", None)


AXES: dict[tuple[str, int], Rule] = {
    ("AveragePool", 19): _without_dilations,
    ("LpPool", 18): _without_dilations,
    **{(f"Reduce{name}", 18): _reduction for name in _REDUCTIONS},
    ("Split", 18): _slices,
}
