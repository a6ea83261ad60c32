"""The layers of a float graph whose loss of signal is measured, and the tensors that show it.

What a layer reads is taken before the operators that only move values, and before it is quantized: pooling, reshaping
or joining on a grid that does not fit is a loss of the layer that reads the result, which is the one to keep in float.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import WEIGHTED_OPS, data_inputs
from edgeq.exporting.graphs.linear import linear_of
from edgeq.exporting.graphs.moves import TFLITE_MOVES_VALUES, moves_values
from edgeq.exporting.planning.selection import activation_behind
from edgeq.exporting.signal.ratio import Layer
from edgeq.exporting.tflite.plan import LAYERS

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.tflite.graph import Graph


def onnx_layers(model: ir.Model) -> list[Layer]:
    """Returns the weighted layers, the products and the sums of two activations of a float graph, in order."""
    layers = []
    for node in model.graph:
        inputs = data_inputs(node)
        if node.op_type in WEIGHTED_OPS or (node.op_type == "Add" and len(inputs) == 2):
            origins = [str(origin.name) for value in inputs for origin in _origins(value)]
            output = activation_behind(_last(node))
            layers.append(Layer(str(node.name), node.op_type, tuple(dict.fromkeys(origins)), str(output.name)))
    return layers


def tflite_layers(graph: Graph) -> list[Layer]:
    """Returns the same of a float TFLite graph; a layer's name is that of its output, as `keep` takes it."""
    layers = []
    for operator in graph.operators:
        if operator.kind in LAYERS or (operator.kind == "ADD" and len(graph.activations(operator)) == 2):
            origins = [name for index in graph.activations(operator) for name in _tflite_origins(graph, index)]
            output = graph.tensors[operator.outputs[0]].name
            layers.append(Layer(output, operator.kind, tuple(dict.fromkeys(origins)), output))
    return layers


def _last(node: ir.Node) -> ir.Node:
    """Returns the Add of a linear layer's bias, or the node itself."""
    layer = linear_of(node)
    return node if layer is None else layer.add or node


def _origins(value: ir.Value) -> list[ir.Value]:
    producer = value.producer()
    if producer is None or not moves_values(producer):
        return [value]
    return [origin for moved in data_inputs(producer) for origin in _origins(moved)]


def _tflite_origins(graph: Graph, index: int) -> list[str]:
    producer = graph.producer.get(index)
    if producer is None or producer.kind not in TFLITE_MOVES_VALUES:
        return [graph.tensors[index].name]
    return [name for moved in graph.activations(producer) for name in _tflite_origins(graph, moved)]
