"""Attributes that became inputs, got another name, or went away. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, set_attribute, set_input

if TYPE_CHECKING:
    import onnx_ir as ir

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def _to_inputs(*names: str) -> Rule:
    """Returns the rule that makes integers of attributes the inputs behind the data, those that are there."""

    def move(node: ir.Node, make: NodeBuilder) -> None:
        for position, name in enumerate(names, 1):
            numbers = attribute(node, name)
            if numbers is not None:
                array = np.array(numbers, np.int64).reshape(-1)
                set_input(node, position, make.constant(array))
                set_attribute(node, name, None)

    return move


def _clip(node: ir.Node, make: NodeBuilder) -> None:
    for position, name in enumerate(("min", "max"), 1):
        bound = attribute(node, name)
        if bound is not None and abs(bound) < np.finfo(np.float32).max:
            set_input(node, position, make.like(node.inputs[0], bound))
        set_attribute(node, name, None)


def _pad(node: ir.Node, make: NodeBuilder) -> None:
    pads, value = attribute(node, "pads"), attribute(node, "value", 0.0)
    set_input(node, 1, make.ints(*pads))
    if attribute(node, "mode", "constant") == "constant" and value:
        set_input(node, 2, make.like(node.inputs[0], value))
    set_attribute(node, "pads", None)
    set_attribute(node, "value", None)


def _drop_ratio(node: ir.Node, make: NodeBuilder) -> None:
    """A Dropout that does not train computes nothing."""
    set_attribute(node, "ratio", None)


def _split_evenly(node: ir.Node, make: NodeBuilder) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        set_attribute(node, "num_outputs", len(node.outputs))


def _scatter(node: ir.Node, make: NodeBuilder) -> None:
    node.op_type = "ScatterElements"


def _half_pixel_of_the_output(node: ir.Node, make: NodeBuilder) -> None:
    set_attribute(node, "coordinate_transformation_mode", "output_half_pixel")


def _dft(node: ir.Node, make: NodeBuilder) -> None:
    set_input(node, 2, make.constant(np.array(attribute(node, "axis", 1), np.int64)))
    set_attribute(node, "axis", None)


def _scan(node: ir.Node, make: NodeBuilder) -> None:
    make.refuse(
        "of opset 8 scans a batch of sequences, which no later opset has; export the model again, opset 9 or newer"
    )


ATTRIBUTES: dict[tuple[str, int], Rule] = {
    ("Clip", 11): _clip,
    ("DFT", 20): _dft,
    ("Dropout", 12): _drop_ratio,
    ("Pad", 11): _pad,
    ("ReduceSum", 13): _to_inputs("axes"),
    **{(f"Reduce{name}", 18): _to_inputs("axes") for name in _REDUCTIONS},
    ("RoiAlign", 16): _half_pixel_of_the_output,
    ("Scan", 9): _scan,
    ("Scatter", 11): _scatter,
    ("Slice", 10): _to_inputs("starts", "ends", "axes"),
    ("Split", 13): _to_inputs("split"),
    ("Split", 18): _split_evenly,
    ("Squeeze", 13): _to_inputs("axes"),
    ("TopK", 10): _to_inputs("k"),
    ("Unsqueeze", 13): _to_inputs("axes"),
}
