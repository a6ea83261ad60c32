"""Nodes that hold weights of few bits, in the form that an engine keeps small in memory.

- `MatMulNBits` is ONNX Runtime's own operator (com.microsoft) for linear layers of 2, 4 and 8 bits. Its
  `accuracy_level` 4 multiplies integers of 8 bits, with a scale for every group of the input too. At the default level
  2 and 8 bits took 20 to 50 times as long as FP32, on every CPU that was measured (`benchmarks/low_bit_weights.py`).
- A DequantizeLinear in blocks and a Transpose before a MatMul is what OpenVINO compresses linear layers from, in 4 and
  8 bits; it keeps 4-bit weights behind its FullyConnected. Without the Transpose it moves the weights at every run.
- Cast, Sub, Mul and Reshape of constants are computed when a file is loaded: the form of convolutions, for which no
  engine of ours has kernels. The file is small, the layer is as fast as in FP32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer
from edgeq.exporting.graphs.linear import append_add, linear_of, set_constant
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.planning.low_bit import LINEAR, as_stored
from edgeq.schemes import PerGroup

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.quantizers import QuantizedWeight

Form = Literal["matmul_nbits", "dequantize_linear", "float"]
"""How linear layers hold their weights; `float` writes the floats that the integers stand for, to be simulated."""

ACCURACY_LEVEL = 4
"""Of MatMulNBits: integers of 8 bits are multiplied."""

_DOMAIN = "com.microsoft"


@keeps_names
def insert_low_bit_weights(model: ir.Model, weights: Mapping[str, QuantizedWeight], form: Form) -> None:
    """Gives layers their quantized weights, in place.

    Args:
        model: The float graph, in opset 21 or higher.
        weights: Layer -> its weight `(out, in)`, unsigned integers with zero points in groups; of any scheme for
            `float`.
        form: How linear layers hold them.
    """
    for node in list(model.graph):
        quantized = weights.get(str(node.name))
        if quantized is None:
            continue
        if form == "float":
            set_constant(model, node, 1, f"{node.name}.weight", as_stored(node, quantized.dequantize()))
        elif node.op_type not in LINEAR:
            _into_convolution(model, node, quantized)
        elif form == "matmul_nbits":
            _into_matmul_nbits(model, node, quantized)
        else:
            _into_dequantize(model, node, quantized)


def _into_matmul_nbits(model: ir.Model, node: ir.Node, quantized: QuantizedWeight) -> None:
    import onnx_ir as ir

    bits, size = quantized.scheme.bits, _group(quantized)
    outputs, inputs = quantized.integers.shape
    blocks = quantized.scale.shape[1]
    integers = np.pad(quantized.integers, ((0, 0), (0, blocks * size - inputs)))
    name = f"{node.name}_w{bits}"
    arrays = (
        packed(integers.reshape(outputs, blocks, size), bits),
        quantized.scale.astype(np.float32).reshape(-1),
        packed(quantized.zero_point, bits).reshape(-1),
    )
    parts = [
        new_initializer(model, f"{name}{suffix}", array)
        for suffix, array in zip(("", "_scale", "_zero"), arrays, strict=True)
    ]
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": size, "accuracy_level": ACCURACY_LEVEL}
    product = ir.node("MatMulNBits", [node.inputs[0], *parts], attributes, domain=_DOMAIN, name=name)
    model.graph.opset_imports[_DOMAIN] = 1
    _take_place(model, node, [product])


def _into_dequantize(model: ir.Model, node: ir.Node, quantized: QuantizedWeight) -> None:
    import onnx_ir as ir

    name = f"{node.name}_w{quantized.scheme.bits}"
    arrays = (_typed(quantized.integers, quantized), quantized.scale, _typed(quantized.zero_point, quantized))
    parts = [
        new_initializer(model, f"{name}{suffix}", array)
        for suffix, array in zip(("", "_scale", "_zero"), arrays, strict=True)
    ]
    made = [
        ir.node("DequantizeLinear", parts, {"axis": 1, "block_size": _group(quantized)}, name=f"{name}_dequantize"),
    ]
    made.append(ir.node("Transpose", [made[0].outputs[0]], {"perm": [1, 0]}, name=f"{name}_transpose"))
    made.append(ir.node("MatMul", [node.inputs[0], made[1].outputs[0]], name=f"{name}_product"))
    outputs, inputs = quantized.integers.shape
    for each, shape in zip(made, ((outputs, inputs), (inputs, outputs)), strict=False):
        each.outputs[0].type, each.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    _take_place(model, node, made)


def _into_convolution(model: ir.Model, node: ir.Node, quantized: QuantizedWeight) -> None:
    import onnx_ir as ir

    old = node.inputs[1]
    assert old is not None and old.shape is not None  # noqa: S101 - the plan has seen its weight
    name, size = f"{node.name}_w{quantized.scheme.bits}", _group(quantized)
    grouped = (len(quantized.integers), -1, size)
    arrays = {
        "": _typed(quantized.integers, quantized).reshape(grouped),
        "_zero": _typed(quantized.zero_point, quantized)[..., None],
        "_scale": quantized.scale[..., None],
        "_shape": np.array(old.shape.numpy(), np.int64),
    }
    held = {suffix: new_initializer(model, f"{name}{suffix}", array) for suffix, array in arrays.items()}
    casts = [
        ir.node("Cast", [held[each]], {"to": ir.DataType.FLOAT}, name=f"{name}{each}_float") for each in ("", "_zero")
    ]
    made = [*casts, ir.node("Sub", [each.outputs[0] for each in casts], name=f"{name}_steps")]
    made.append(ir.node("Mul", [made[-1].outputs[0], held["_scale"]], name=f"{name}_numbers"))
    made.append(ir.node("Reshape", [made[-1].outputs[0], held["_shape"]], name=f"{name}_kernel"))
    for each in made:
        each.outputs[0].name, each.outputs[0].type = str(each.name), ir.TensorType(ir.DataType.FLOAT)
    made[-1].outputs[0].shape = old.shape
    model.graph.insert_before(node, made)
    node.replace_input_with(1, made[-1].outputs[0])
    _drop(model, old)


def _take_place(model: ir.Model, node: ir.Node, made: list[ir.Node]) -> None:
    """Puts nodes in the place of a Gemm or MatMul; a Gemm's bias becomes an Add."""
    layer = linear_of(node)
    assert layer is not None  # noqa: S101 - the plan takes no other
    bias = layer.bias if node.op_type == "Gemm" else np.zeros(1)
    old, weight, result = node.outputs[0], node.inputs[1], made[-1].outputs[0]
    for each in made[:-1]:
        each.outputs[0].name = str(each.name)
    result.type, result.shape, name = old.type, old.shape, old.name
    model.graph.insert_before(node, made)
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    others = [value for value in node.inputs[2:] if value is not None]
    model.graph.remove(node, safe=True)
    old.name, result.name = None, name
    for value in (weight, *others):
        _drop(model, value)
    if np.any(bias):
        append_add(model, made[-1], new_initializer(model, f"{node.name}_bias", bias.astype(np.float32)))


def _drop(model: ir.Model, value: ir.Value | None) -> None:
    """Removes an initializer that nothing reads any more."""
    if value is not None and constant(value) is not None and not value.uses() and not value.is_graph_output():
        model.graph.initializers.pop(str(value.name), None)


def packed(integers: np.ndarray, bits: int) -> np.ndarray:
    """Returns integers along the last axis in bytes, the first in the lowest bits; a last byte is filled with 0."""
    count = 8 // bits
    padded = np.pad(integers, [(0, 0)] * (integers.ndim - 1) + [(0, -integers.shape[-1] % count)]).astype(np.uint8)
    parts = padded.reshape(*padded.shape[:-1], -1, count)
    return np.asarray(np.bitwise_or.reduce(parts << (bits * np.arange(count, dtype=np.uint8)), axis=-1), np.uint8)


def _typed(integers: np.ndarray, quantized: QuantizedWeight) -> np.ndarray:
    """Returns integers in the smallest type of opset 21 that holds them: 2 bits are stored in 4."""
    import ml_dtypes

    return np.asarray(integers.astype(np.uint8 if quantized.scheme.bits > 4 else ml_dtypes.uint4))


def _group(quantized: QuantizedWeight) -> int:
    assert isinstance(quantized.scheme.granularity, PerGroup)  # noqa: S101 - what weights of few bits have
    return quantized.scheme.granularity.size
