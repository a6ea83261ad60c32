"""Folds BatchNormalization into the layer before or behind it. Exact up to float rounding.

Rules, by number:

1. Conv, ConvTranspose, Gemm or MatMul (2-D, with or without an added bias) -> BatchNormalization: the scale goes into
   the output channels of the weight, the shift into the bias. The layer's output must have no other use. Between a
   MatMul or Gemm and the BatchNormalization of its features a Reshape may stand that keeps the features apart: tokens
   of a transformer become rows for it.
2. BatchNormalization -> Conv, ConvTranspose, Gemm or MatMul: the scale goes into the input channels of the weight. The
   shift becomes a bias only where every output sees all of it: zero padding hides a part of it at the borders, so
   a padded Conv is folded only with a zero shift, and a ConvTranspose only with a zero shift or a 1x1 kernel.
   All users of the normalised tensor must qualify, and it must not be an output of the graph.
3. What is left is reported with the reason; the file still runs, in float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import WEIGHTED_OPS, constant, infer_shapes, new_initializer, walk, weight_of
from edgeq.exporting.graphs.linear import set_constant
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


_MATRIX = 2
_LINEAR = frozenset({"MatMul", "Gemm"})
_KEEPS_ROWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class _Affine:
    """`y = scale * x + shift` for each channel, float64."""

    scale: np.ndarray
    shift: np.ndarray


def fold_batchnorm(model: ir.Model) -> RewriteReport:
    """Folds what can be folded, in place, and returns what was done.

    Args:
        model: A cleaned graph (`edgeq.exporting.passes.cleaning.clean`).
    """
    done, left = [], {}
    for node in walk(model):
        if node.op_type != "BatchNormalization":
            continue
        name = node.name or node.outputs[0].name or "?"
        reason = _fold(model, node)
        if reason is None:
            done.append(name)
        else:
            left[name] = reason
    if done:
        infer_shapes(model)
    return RewriteReport(tuple(done), left)


def _fold(model: ir.Model, node: ir.Node) -> str | None:
    """Folds one node and returns `None`, or the reason why it could not be."""
    affine = _affine(node)
    if affine is None:
        return "its statistics are not constants (exported in training mode?)"
    reason_before = _fold_into_producer(model, node, affine)
    if reason_before is None:
        return None
    reason_behind = _fold_into_consumers(model, node, affine)
    return None if reason_behind is None else f"{reason_before}; {reason_behind}"


def _affine(node: ir.Node) -> _Affine | None:
    arrays = [constant(value) for value in node.inputs[1:5]]
    if len(arrays) < 4 or any(array is None for array in arrays) or any(output.uses() for output in node.outputs[1:]):
        return None
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    scale = gamma / np.sqrt(variance + epsilon)
    return _Affine(scale, beta - mean * scale)


# Rule 1 -------------------------------------------------------------------------------------------------------------


def _fold_into_producer(model: ir.Model, node: ir.Node, affine: _Affine) -> str | None:
    source = node.inputs[0]
    assert source is not None  # noqa: S101 - the checker guarantees BatchNormalization's first input
    inner = _rows_of(source)
    layer = inner[-1].producer()
    if layer is None:
        return "it is at the graph's input"
    bias_add = None
    if layer.op_type == "Add":
        bias_add, layer = layer, _biased_matmul(layer)
    if layer is None or layer.op_type not in WEIGHTED_OPS or (len(inner) > 1 and layer.op_type not in _LINEAR):
        return f"what comes before it is {source.producer().op_type}"  # type: ignore[union-attr]
    weight = weight_of(layer)
    if weight is None:
        return f"the weight of {layer.name} is not a constant"
    if bias_add is not None:
        inner.append(layer.outputs[0])
    if any(len(value.uses()) > 1 or value.is_graph_output() for value in inner):
        return f"the output of {layer.name} has another use"
    if layer.op_type == "MatMul" and not _rows_are_features(source, weight):
        return f"the channels of {layer.name} are not the features of its MatMul"
    scaled = _scale_output_channels(layer, weight, affine.scale)
    bias_holder = bias_add if bias_add is not None else layer
    old_bias = _bias(bias_holder, affine.scale.size)
    if scaled is None or old_bias is None:
        return f"{layer.name} has groups or a bias of an unknown form"
    _set_weight(model, layer, scaled)
    new_bias = old_bias * affine.scale + affine.shift
    output = node.outputs[0]
    if layer.op_type == "MatMul" and bias_add is None:
        if len(inner) == 1:
            _replace_by_add(model, node, source, new_bias.astype(weight.dtype))
            return None
        _add_behind(model, layer, node, new_bias.astype(weight.dtype))
    else:
        _set_bias(model, bias_holder, new_bias.astype(weight.dtype))
    name = output.name
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    if source.is_graph_output():
        source.name = name
    return None


def _biased_matmul(add: ir.Node) -> ir.Node | None:
    """Returns the MatMul whose constant bias an Add node adds."""
    values = [value for value in add.inputs if value is not None]
    for value, other in (values, values[::-1]):
        producer = value.producer()
        if producer is not None and producer.op_type == "MatMul" and constant(other) is not None:
            return producer
    return None


def _rows_of(value: ir.Value) -> list[ir.Value]:
    """Returns a value, and of a matrix also what it is reshaped from with the same features in its last axis."""
    values = [value]
    features = value.shape[-1] if value.shape is not None and len(value.shape) == _MATRIX else None
    while isinstance(features, int) and (node := values[-1].producer()) is not None and node.op_type in _KEEPS_ROWS:
        source = node.inputs[0]
        if source is None or source.shape is None or not len(source.shape) or source.shape[-1] != features:
            break
        values.append(source)
    return values


def _rows_are_features(normalized: ir.Value, weight: np.ndarray) -> bool:
    return weight.ndim == _MATRIX and normalized.shape is not None and len(normalized.shape) == _MATRIX


def _scale_output_channels(layer: ir.Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    axis = output_axis(layer)
    if layer.op_type == "ConvTranspose":
        groups = _int_attribute(layer, "group", 1)
        grouped = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
        factor = scale.reshape(groups, 1, weight.shape[1], *([1] * (weight.ndim - 2)))
        per_group: np.ndarray = (grouped * factor).reshape(weight.shape).astype(weight.dtype)
        return per_group
    if weight.shape[axis] != scale.size:
        return None
    shape = [1] * weight.ndim
    shape[axis] = scale.size
    # Gemm computes alpha * A * B + beta * C; the scale goes through alpha unchanged.
    scaled: np.ndarray = (weight.astype(np.float64) * scale.reshape(shape)).astype(weight.dtype)
    return scaled


def output_axis(layer: ir.Node) -> int:
    """Returns the weight's axis of output channels (of one group, for ConvTranspose)."""
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "Gemm":
        return 0 if _int_attribute(layer, "transB", 0) else 1
    return 1


def _bias(node: ir.Node, channels: int) -> np.ndarray | None:
    """Returns the effective bias of a layer or of a bias Add, zeros where it has none, float64 `(channels,)`."""
    if node.op_type == "MatMul":
        return np.zeros(channels)
    if node.op_type == "Add":
        arrays = [constant(value) for value in node.inputs]
        bias = next((array for array in arrays if array is not None), None)
    else:
        if len(node.inputs) < 3 or node.inputs[2] is None:
            return np.zeros(channels)
        bias = constant(node.inputs[2])
    if bias is None or bias.size not in (1, channels) or bias.shape[-1:] != (bias.size,):
        return None
    beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 1.0
    effective: np.ndarray = bias.reshape(-1).astype(np.float64) * beta
    return np.broadcast_to(effective, (channels,))


def _set_weight(model: ir.Model, layer: ir.Node, weight: np.ndarray) -> None:
    name = layer.inputs[1].name or f"{layer.name}.weight"  # type: ignore[union-attr]
    set_constant(model, layer, 1, name, weight)


def _set_bias(model: ir.Model, holder: ir.Node, bias: np.ndarray) -> None:
    if holder.op_type == "Add":
        index = next(i for i, value in enumerate(holder.inputs) if constant(value) is not None)
        set_constant(model, holder, index, holder.inputs[index].name or "bias", bias)  # type: ignore[union-attr]
        return
    if "beta" in holder.attributes:
        del holder.attributes["beta"]
    if len(holder.inputs) < 3:
        holder.resize_inputs(3)
    old = holder.inputs[2]
    set_constant(model, holder, 2, (old.name if old is not None else None) or f"{holder.name}.bias", bias)


def _replace_by_add(model: ir.Model, node: ir.Node, source: ir.Value, bias: np.ndarray) -> None:
    import onnx_ir as ir

    output = node.outputs[0]
    add = ir.node("Add", [source, new_initializer(model, f"{node.name}.bias", bias)], name=f"{node.name}.bias_add")
    add.outputs[0].type, add.outputs[0].shape, name = output.type, output.shape, output.name
    model.graph.insert_before(node, add)
    output.replace_all_uses_with(add.outputs[0], replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    add.outputs[0].name = name


def _add_behind(model: ir.Model, layer: ir.Node, node: ir.Node, bias: np.ndarray) -> None:
    """Adds a bias directly behind a MatMul, in the name of the BatchNormalization that it was."""
    import onnx_ir as ir

    product = layer.outputs[0]
    add = ir.node("Add", [product, new_initializer(model, f"{node.name}.bias", bias)], name=f"{node.name}.bias_add")
    (result,) = add.outputs
    result.name, result.type, result.shape = f"{product.name}_biased", product.type, product.shape
    use = next(use for use in product.uses() if use.node is not add)
    model.graph.insert_after(layer, add)
    use.node.replace_input_with(use.idx, result)


# Rule 2 -------------------------------------------------------------------------------------------------------------


def _fold_into_consumers(model: ir.Model, node: ir.Node, affine: _Affine) -> str | None:
    output, source = node.outputs[0], node.inputs[0]
    if output.is_graph_output():
        return "its output is an output of the graph"
    consumers = [use.node for use in output.uses()]
    edits: list[Callable[[], None]] = []
    for layer in consumers:
        edit = _input_edit(model, layer, output, affine)
        if isinstance(edit, str):
            return edit
        edits.append(edit)
    for edit in edits:
        edit()
    assert source is not None  # noqa: S101 - the checker guarantees BatchNormalization's first input
    output.replace_all_uses_with(source)
    model.graph.remove(node, safe=True)
    return None


def _input_edit(model: ir.Model, layer: ir.Node, value: ir.Value, affine: _Affine) -> Callable[[], None] | str:
    weight = weight_of(layer)
    if layer.op_type not in WEIGHTED_OPS or layer.inputs[0] is not value or weight is None:
        return f"what comes behind it is {layer.op_type}"
    shift_is_zero = not np.any(affine.shift)
    if layer.op_type == "Conv" and not shift_is_zero and _pads(layer):
        return f"the zero padding of {layer.name} comes between its shift and the sum"
    if layer.op_type == "ConvTranspose" and not shift_is_zero and any(size != 1 for size in weight.shape[2:]):
        return f"the outputs of {layer.name} see different parts of its shift"
    if layer.op_type == "MatMul":
        return f"what comes behind it is {layer.op_type} without a bias"
    if layer.op_type == "Gemm" and _int_attribute(layer, "transA", 0):
        return f"{layer.name} transposes its input"
    groups = _int_attribute(layer, "group", 1)
    scaled, contribution = _absorb_input(layer, weight.astype(np.float64), affine, groups)
    bias = _bias(layer, contribution.size)
    if bias is None:
        return f"{layer.name} has a bias of an unknown form"

    def edit() -> None:
        _set_weight(model, layer, scaled.astype(weight.dtype))
        _set_bias(model, layer, (bias + contribution).astype(weight.dtype))

    return edit


def scaled_inputs(layer: ir.Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the weight of a Conv or ConvTranspose with a factor in each of its input channels.

    Args:
        layer: The layer, whose groups count.
        weight: Its weight.
        scale: The factors, `(C,)`.
    """
    scaled: np.ndarray
    if layer.op_type == "ConvTranspose":  # (in, out / groups, ...)
        scaled = weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))
    else:  # (out, in / groups, ...)
        groups = _int_attribute(layer, "group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (grouped * scale.reshape(groups, 1, -1, *([1] * (weight.ndim - 2)))).reshape(weight.shape)
    return scaled


def _absorb_input(layer: ir.Node, weight: np.ndarray, affine: _Affine, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight with the scale in its input channels, and the shift's share of every output channel."""
    if layer.op_type == "Gemm":
        alpha = layer.attributes["alpha"].as_float() if "alpha" in layer.attributes else 1.0
        matrix = weight if _int_attribute(layer, "transB", 0) else weight.T
        scaled = matrix * affine.scale
        contribution = alpha * (matrix @ affine.shift)
        return (scaled if _int_attribute(layer, "transB", 0) else scaled.T), contribution
    spatial = tuple(range(2, weight.ndim))
    scaled = scaled_inputs(layer, weight, affine.scale)
    if layer.op_type == "Conv":  # (out, in / groups, ...)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        sums = grouped.sum(axis=tuple(axis + 1 for axis in spatial)) * affine.shift.reshape(groups, 1, -1)
        return scaled, sums.sum(axis=2).reshape(-1)
    # ConvTranspose (in, out / groups, ...): a kernel larger than 1x1 comes here only with a zero shift.
    sums = weight.sum(axis=spatial) * affine.shift[:, None]
    contribution = sums.reshape(groups, -1, weight.shape[1]).sum(axis=1).reshape(-1)
    return scaled, contribution


def _pads(layer: ir.Node) -> bool:
    if "auto_pad" in layer.attributes and layer.attributes["auto_pad"].as_string() not in ("NOTSET", "VALID"):
        return True
    return "pads" in layer.attributes and any(layer.attributes["pads"].as_ints())


def _int_attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default
