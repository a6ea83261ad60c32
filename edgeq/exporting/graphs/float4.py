"""Weights in FP4, which ONNX Runtime reads and does not compute with on the CPU: written out in floats for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir

FLOAT4 = "FLOAT4E2M1"
"""ONNX's name of the type."""


def dequantized(node: ir.Node) -> np.ndarray | None:
    """Returns what a DequantizeLinear makes of constants on scales of its own or of another one, in the type of these.

    `None` for all that has zero points, or scales along an axis without blocks (ONNX operators, DequantizeLinear-23).
    """
    stored, scale = constant(node.inputs[0]), scale_of(node)
    if stored is None or scale is None or any(value is not None for value in node.inputs[2:]):
        return None
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    if block:
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        scale = np.take(np.repeat(scale, block, axis), range(stored.shape[axis]), axis)
    elif scale.size > 1:
        return None
    numbers: np.ndarray = (stored.astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)
    return numbers


def scale_of(node: ir.Node) -> np.ndarray | None:
    """Returns the scales of a Q or DQ node, constant or dequantized themselves; `None` if they are computed."""
    producer = node.inputs[1].producer() if node.inputs[1] is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear":
        return dequantized(producer)
    return constant(node.inputs[1])


@keeps_names
def write_out_float4(model: ir.Model) -> None:
    """Replaces FP4 weights by the floats that they stand for, in place."""
    for node in list(model.graph):
        stored = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if stored is None or stored.dtype is None or stored.dtype.name != FLOAT4:
            continue
        if (numbers := dequantized(node)) is not None:
            result = node.outputs[0]
            written = new_initializer(model, f"{result.name}_written_out", numbers)
            result.replace_all_uses_with(written, replace_graph_outputs=True)
            _remove(model, node)


def _remove(model: ir.Model, node: ir.Node) -> None:
    """Removes a node, and what nothing reads without it."""
    inputs = [value for value in node.inputs if value is not None]
    model.graph.remove(node, safe=True)
    for value in inputs:
        producer = value.producer()
        if value.uses() or value.is_graph_output():
            continue
        if producer is not None:
            _remove(model, producer)
        elif value.name in model.graph.initializers:
            del model.graph.initializers[str(value.name)]
