"""Keeps layers in float that ONNX Runtime would quantize by itself.

Its pass WeightBiasQuantization takes every Conv, ConvTranspose and Gemm of float weights that reads a DequantizeLinear
and whose result goes, through ReLU or Clip alone, into a QuantizeLinear: it rounds the weight to 8 bits with one scale
for the tensor and runs the layer in INT8. No option switches it off without switching off all INT8. A function of
another name behind the layer does: LeakyReLU of slope 0 is ReLU and of slope 1 nothing, and ONNX Runtime computes
either in the layer's own kernel.
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import walk
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir

_TAKEN = frozenset({"Conv", "ConvTranspose", "Gemm"})
_LOOKED_THROUGH = frozenset({"Relu", "Clip"})


@keeps_names
def keep_in_float(model: ir.Model, layers: Set[str]) -> None:
    """Writes what stands behind float layers between two Q/DQ pairs so that they stay in float, in place. Exact.

    Args:
        model: A graph with its pairs.
        layers: Names of the layers that are to stay in float.
    """
    for node in walk(model):
        if node.name in layers and node.op_type in _TAKEN and _is_taken(node):
            _hide(model, node)


def _is_taken(node: ir.Node) -> bool:
    """Returns whether ONNX Runtime would quantize a float layer."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DequantizeLinear":
        return False
    reader = _only_reader(node)
    while reader is not None and reader.op_type in _LOOKED_THROUGH:
        reader = _only_reader(reader)
    return reader is not None and reader.op_type == "QuantizeLinear"


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 else None


def _hide(model: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    behind = _only_reader(node)
    replaced = behind if behind is not None and behind.op_type == "Relu" else None
    old = (replaced or node).outputs[0]
    name = f"{node.name}_in_float" if replaced is None else replaced.name
    leaky = ir.node("LeakyRelu", [node.outputs[0]], {"alpha": 0.0 if replaced else 1.0}, name=name)
    result = leaky.outputs[0]
    result.shape, result.type = old.shape, old.type
    model.graph.insert_after(replaced or node, leaky)
    for use in list(old.uses()):
        if use.node is not leaky:
            use.node.replace_input_with(use.idx, result)
    result.name = f"{old.name}_in_float"
    if replaced is not None:
        result.name = old.name
        model.graph.remove(replaced, safe=True)
