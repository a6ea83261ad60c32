"""Evens out the channels between two convolutions, by what was measured. Exact up to rounding.

A tensor in INT8 has one step for all channels, so one whose values are small keeps few of them. A factor that its
convolution gets is divided out of the weights that read it; ReLU and its kin, pooling and resizing let positive factors
through. Weights have steps of their own for each output channel, so what a depthwise convolution reads can be made
equal at no cost; elsewhere the difficulty is halved between values and weights. Cross-layer equalization (Nagel et
al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019), with the values' measured
extremes in place of the first layer's weights, as in SmoothQuant (Xiao et al., 2023).

Rules, by number:

1. A Conv or ConvTranspose with a constant weight and bias, whose output is no output of the graph.
2. Behind it operators that let positive factors through, channel by channel, and alone read what stands before them:
   ReLU and its kin with constant slopes, pooling, resizing of height and width.
3. Then readers that are all Conv or ConvTranspose with constant weights.
4. A channel that is always zero, or that no reader weighs, keeps its values. No factor exceeds 64, so that FP16 holds
   what it held.
5. What does not qualify is left alone and named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, weight_of
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.passes.batchnorm import scaled_inputs
from edgeq.exporting.passes.report import RewriteReport
from edgeq.exporting.passes.rescale import ChannelExtremes, check_extremes

if TYPE_CHECKING:
    import onnx_ir as ir

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LETS_THROUGH = frozenset({"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_MOST = 64.0


@dataclass(frozen=True)
class _Pair:
    """A convolution, the tensor whose channels are evened out, and what reads it."""

    producer: ir.Node
    tensor: ir.Value
    readers: tuple[ir.Node, ...]


def equalizable_tensors(model: ir.Model) -> tuple[str, ...]:
    """Returns the names of the tensors whose channels can be evened out: what statistics are wanted for."""
    return tuple(str(found.tensor.name) for _, found in _pairs(model) if isinstance(found, _Pair))


@keeps_names
def equalize_channels(model: ir.Model, statistics: Mapping[str, ChannelExtremes]) -> RewriteReport:
    """Evens out channels between convolutions, in place, and returns what was done.

    Args:
        model: A cleaned graph with shapes.
        statistics: Tensor name -> extremes of its channels; for the names that `equalizable_tensors` returns.

    Raises:
        InputError: statistics do not fit their tensor.
    """
    done, left = [], {}
    for name, found in list(_pairs(model)):
        if isinstance(found, str):
            left[name] = found
        elif (extremes := statistics.get(str(found.tensor.name))) is None:
            left[name] = f"there are no statistics of {found.tensor.name}"
        else:
            check_extremes(str(found.tensor.name), extremes, _out_channels(found.producer))
            _apply(model, found, _factors(found, extremes))
            done.append(name)
    return RewriteReport(tuple(done), left)


def _pairs(model: ir.Model) -> Iterator[tuple[str, _Pair | str]]:
    """Yields the name of each convolution with what stands behind it, or with why it is left alone."""
    for node in model.graph:
        if node.op_type not in _CONVOLUTIONS:
            continue
        if not _is_constant(node) or (node.op_type == "ConvTranspose" and _group(node) > 1):
            yield str(node.name), "its weights are computed, or in groups of a ConvTranspose"
        else:
            yield str(node.name), _behind(node)


def _behind(node: ir.Node) -> _Pair | str:
    value = node.outputs[0]
    while not value.is_graph_output():
        uses = list(value.uses())
        readers = tuple(use.node for use in uses)
        if readers and all(use.idx == 0 and _is_convolution(use.node) for use in uses):
            return _Pair(node, value, readers)
        if len(uses) != 1 or uses[0].idx != 0 or not _lets_through(readers[0]):
            return f"{_named(readers)} it"
        value = readers[0].outputs[0]
    return f"{value.name} is an output"


def _lets_through(node: ir.Node) -> bool:
    """Returns whether a node's output is `t` times as large in a channel that is `t > 0` times as large before it."""
    if node.op_type == "PRelu":
        return constant(node.inputs[1]) is not None
    if node.op_type == "Resize":
        before, behind = node.inputs[0], node.outputs[0]
        mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        channels = [None if value is None or value.shape is None else value.shape[1] for value in (before, behind)]
        return mode != "tf_crop_and_resize" and channels[0] == channels[1] and isinstance(channels[0], int)
    return node.op_type in _LETS_THROUGH


def _named(readers: tuple[ir.Node, ...]) -> str:
    kinds = sorted({node.op_type for node in readers})
    return f"{' and '.join(kinds) or 'nothing'} {'read' if len(kinds) > 1 else 'reads'}"


def _is_convolution(node: ir.Node) -> bool:
    return node.op_type in _CONVOLUTIONS and weight_of(node) is not None


def _is_constant(node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return weight_of(node) is not None and (bias is None or constant(bias) is not None)


def _factors(pair: _Pair, extremes: ChannelExtremes) -> np.ndarray:
    """Returns what each channel of a pair's tensor is multiplied by, `(C,)`; the largest magnitude stays what it is."""
    values = np.maximum(np.abs(extremes.minimum), np.abs(extremes.maximum)).astype(np.float64)
    weights = np.max([_weighed(reader, values.size) for reader in pair.readers], axis=0)
    usable = (values > 0) & (weights > 0)
    factors: np.ndarray = np.ones_like(values)
    if not usable.any():
        return factors
    wanted = values[usable].max() / values[usable]
    if not all(_is_depthwise(reader) for reader in pair.readers):
        wanted = np.sqrt(wanted * weights[usable] / weights[usable].max())
    factors[usable] = wanted
    factors[usable] *= values.max() / (values * factors)[usable].max()
    clipped: np.ndarray = np.clip(factors, 1 / _MOST, _MOST)
    return clipped


def _weighed(reader: ir.Node, channels: int) -> np.ndarray:
    """Returns the largest magnitude of the weights that read each input channel, `(C,)`."""
    weight: np.ndarray = np.abs(_weight(reader)).astype(np.float64)
    if reader.op_type == "Conv":  # (out, in / groups, ...): a group's outputs read its own inputs
        weight = np.moveaxis(weight.reshape(_group(reader), -1, *weight.shape[1:]), 1, 2)
    found: np.ndarray = weight.reshape(channels, -1).max(axis=1)
    return found


def _apply(model: ir.Model, pair: _Pair, factors: np.ndarray) -> None:
    producer = pair.producer
    # Axis of the output channels: 1 of a ConvTranspose, whose weight is `(in, out, kH, kW)`.
    axis = 1 if producer.op_type == "ConvTranspose" else 0
    weight = _weight(producer)
    others = [each for each in range(weight.ndim) if each != axis]
    _replace(model, producer, 1, weight * np.expand_dims(factors, others))
    if len(producer.inputs) > 2 and (bias := constant(producer.inputs[2])) is not None:
        _replace(model, producer, 2, bias * factors)
    for reader in pair.readers:
        _replace(model, reader, 1, scaled_inputs(reader, _weight(reader), 1 / factors))


def _replace(model: ir.Model, node: ir.Node, index: int, array: np.ndarray) -> None:
    old = cast("ir.Value", node.inputs[index])
    node.replace_input_with(index, new_initializer(model, str(old.name), array.astype(_weight(node).dtype)))
    if not old.uses():
        model.graph.initializers.pop(str(old.name), None)


def _weight(node: ir.Node) -> np.ndarray:
    """Returns the weight of a convolution that rule 1 or 3 holds for."""
    return cast("np.ndarray", weight_of(node))


def _out_channels(node: ir.Node) -> int:
    return int(_weight(node).shape[1 if node.op_type == "ConvTranspose" else 0])


def _group(node: ir.Node) -> int:
    return node.attributes.get_int("group", 1)


def _is_depthwise(node: ir.Node) -> bool:
    channels = _weight(node).shape[0] if node.op_type == "ConvTranspose" else _group(node) * _weight(node).shape[1]
    return bool(_group(node) == channels > 1)
