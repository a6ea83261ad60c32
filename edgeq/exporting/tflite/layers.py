"""Integers of the weights and biases of TFLite files: chosen here, and put where ai-edge-quantizer chose others.

It rounds to nearest as well, so that most of its integers are those of the plan. It gives a channel of zeros the scale
of 1e-9, though, at which a bias of .31 is beyond int32 and is cut off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

import numpy as np

from edgeq.calibrators.grid import Grid
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.tflite.graph import Graph, Operator, Tensor, read_graph, unpack
from edgeq.exporting.tflite.plan import LAYERS
from edgeq.quantizers import ROUND, QuantizedWeight, Statistics, get_weight_method
from edgeq.quantizers.bias import quantize_bias, scale_for_bias
from edgeq.quantizers.weight import reduced, spread
from edgeq.schemes import PerAxis, PerTensor

_LEAST_MULTIPLIER = 2.0**-30
"""`input scale * weight scale / output scale`: below 2**-32 XNNPACK refuses a layer."""

_DEAD_MULTIPLIER = 2.0**-20
"""The same for channels without weights: their biases still have a million steps in each of the output's."""

_EPSILON = 1e-6

QUANTIZER_SUFFIXES = ("_quantized", "_dequant")
"""What ai-edge-quantizer appends to the name of a tensor that it puts before or behind another."""

Layers = tuple[Mapping[str, QuantizedWeight], Mapping[str, QuantizedWeight]]
"""Name of an operator -> its weight, and its bias where that is integers too."""


def quantized_layers(
    graph: Graph,
    decisions: Mapping[int, LayerDecision],
    grids: Mapping[str, Grid],
    per_tensor: Collection[str] = (),
    weight_method: str = ROUND,
    statistics: Mapping[str, Statistics] | None = None,
) -> Layers:
    """Returns the weights and biases of a plan as integers.

    Args:
        graph: The float graph.
        decisions: The plan.
        grids: Tensor name -> its grid, for what static operators read and write.
        per_tensor: Kinds of operators whose weights get one scale instead of one for each channel.
        weight_method: A name of `edgeq.quantizers.WEIGHT_METHODS`.
        statistics: Tensor name -> what was collected of it, for weight methods that want it.

    Raises:
        InputError: there is no such weight method.
    """
    method = get_weight_method(weight_method)
    weights: dict[str, QuantizedWeight] = {}
    for operator, decision in _layers(graph, decisions):
        channels = PerTensor() if operator.kind in per_tensor else PerAxis(3 * (operator.kind == "DEPTHWISE_CONV_2D"))
        seen = (statistics or {}).get(graph.tensors[graph.activations(operator)[0]].name, {})
        weights[decision.name] = method(graph.values[operator.inputs[1]], decision.scheme.weight.along(channels), seen)
    static = [
        (operator, decision.name) for operator, decision in _layers(graph, decisions) if decision.scheme.is_static
    ]
    scales: dict[int, np.ndarray] = {}
    for operator, name in static:
        fitted = _static_scale(graph, operator, weights[name], grids)
        # Layers that share a weight share its scale.
        scales[operator.inputs[1]] = np.maximum(scales.get(operator.inputs[1], fitted), fitted)
    biases = {}
    for operator, name in static:
        weight = operator.inputs[1]
        weights[name] = weights[name].rescaled(graph.values[weight], scales[weight])
        if (bias := _bias(graph, operator)) is not None:
            step = grids[graph.tensors[graph.activations(operator)[0]].name].scale
            biases[name] = quantize_bias(bias, weights[name].scale, step)
    return weights, biases


def store_layers(content: bytes, before: Graph, layers: Layers, name: str) -> bytes:
    """Returns a quantized file that has the integers of a plan; the same bytes, where it had them.

    Args:
        content: What the quantizer has made.
        before: The float graph.
        layers: What `quantized_layers` returned.
        name: What to call the file in errors.
    """
    after = read_graph(content, name)
    computed = computed_by_name(before, after)
    weights, biases = layers
    model = unpack(content, name)
    stored = False
    for output, weight in weights.items():
        operator = computed.get(output)
        if operator is None:
            continue  # the quantizer's, and `check` says so
        bias = biases.get(output)
        place = after.tensors[operator.inputs[1]]
        changed = _differing(model, place, weight, needs_scale=bias is not None)
        if not changed.any():
            continue
        stored = True
        _store_weight(model, place, weight, changed)
        if bias is not None:
            _store_bias(model, after.tensors[operator.inputs[_bias_place(operator)]], bias, changed)
    return _packed(model) if stored else content


def computed_by_name(before: Graph, after: Graph) -> dict[str, Operator]:
    """Returns the float graph's name of a tensor -> the operator of the quantized graph that computes it."""
    known = {tensor.name for tensor in before.tensors}
    return {
        _base(after.tensors[index].name, known): operator
        for operator in after.operators
        if operator.kind not in ("QUANTIZE", "DEQUANTIZE")
        for index in operator.outputs
    }


def _base(name: str, known: Set[str]) -> str:
    """Returns the float graph's name of a tensor that the quantizer may have renamed."""
    if name in known:
        return name
    for suffix in QUANTIZER_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _layers(graph: Graph, decisions: Mapping[int, LayerDecision]) -> list[tuple[Operator, LayerDecision]]:
    """Returns the layers that do not stay in float, in the order of execution."""
    found = ((graph.operators[index], decision) for index, decision in sorted(decisions.items()))
    return [
        (operator, decision)
        for operator, decision in found
        if operator.kind in LAYERS and not decision.is_float and operator.inputs[1] in graph.values
    ]


def _bias_place(operator: Operator) -> int:
    return 3 if operator.kind == "TRANSPOSE_CONV" else 2


def _bias(graph: Graph, operator: Operator) -> np.ndarray | None:
    place = _bias_place(operator)
    return graph.values.get(operator.inputs[place]) if len(operator.inputs) > place else None


def _static_scale(graph: Graph, operator: Operator, weight: QuantizedWeight, grids: Mapping[str, Grid]) -> np.ndarray:
    """Returns a weight's scale that its bias and the engines' kernels can take."""
    (given,), made = graph.activations(operator), operator.outputs[0]
    input_scale = grids[graph.tensors[given].name].scale
    step = grids[graph.tensors[made].name].scale / input_scale
    least = np.where(weight.dead, _DEAD_MULTIPLIER, _LEAST_MULTIPLIER) * step
    # A dead channel's own scale is 1, whatever its input and output are.
    scale = np.where(weight.dead, least, weight.scale)
    bias = _bias(graph, operator)
    if bias is not None:
        scale = scale_for_bias(scale, weight.dead, bias, input_scale)
    return np.maximum(scale, least).astype(np.float32)


def _differing(model: Any, tensor: Tensor, weight: QuantizedWeight, *, needs_scale: bool) -> np.ndarray:
    """Returns which channels the file has otherwise than the plan; where all is zero, the scale is the bias's alone."""
    written = np.array(tensor.scales, np.float32).reshape(weight.scale.shape)
    otherwise = np.abs(weight.scale - written) > _EPSILON * written
    integers = _integers(model, tensor)
    differing = reduced(np.logical_or, integers != weight.integers, weight.scheme)
    return np.asarray(differing | (otherwise & (needs_scale | ~weight.dead)))


def _integers(model: Any, tensor: Tensor) -> np.ndarray:
    data = model.buffers[model.subgraphs[0].tensors[tensor.index].buffer].data
    return np.frombuffer(data, tensor.dtype).reshape(tensor.shape)


def _store_weight(model: Any, tensor: Tensor, weight: QuantizedWeight, changed: np.ndarray) -> None:
    """Stores the channels that changed, and their scales."""
    integers = np.where(spread(changed, weight), weight.integers, _integers(model, tensor))
    scales = np.where(changed.reshape(-1), weight.scale.reshape(-1), np.array(tensor.scales, np.float32))
    _store(model, tensor, integers, scales)


def _store_bias(model: Any, tensor: Tensor, bias: QuantizedWeight, changed: np.ndarray) -> None:
    """Stores the biases of the channels that changed, and their scales."""
    integers = np.where(changed, bias.integers, _integers(model, tensor)).astype(tensor.dtype)
    written = np.array(tensor.scales, np.float32)
    _store(model, tensor, integers, np.where(changed.reshape(-1), bias.scale[: written.size], written))


def _store(model: Any, tensor: Tensor, array: np.ndarray, scales: np.ndarray) -> None:
    """Gives a tensor other data and scales; a buffer that others use as well is left to them."""
    from ai_edge_litert import schema_py_generated as schema

    written = model.subgraphs[0].tensors[tensor.index]
    users = [each for subgraph in model.subgraphs for each in subgraph.tensors if each.buffer == written.buffer]
    if len(users) > 1:
        written.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
    model.buffers[written.buffer].data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    written.quantization.scale = scales.astype(np.float32)


def _packed(model: Any) -> bytes:
    from ai_edge_litert.tools import flatbuffer_utils

    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
