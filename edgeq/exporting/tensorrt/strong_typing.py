"""FP16 in the graph itself, for engines that compute every tensor in the type that the file gives it.

Rules, by number:

1. Every float32 tensor is float16, and so are the scales of Q/DQ pairs: a DequantizeLinear gives the type of its scale.
2. The graph's inputs and outputs keep their types, behind or before a Cast, so that FP32 and FP16 files are fed alike.
   An output that is a constant stays as it is, and those that compute with it read another.
3. Scales are rounded up: rounded down, the largest values would be cut off; and never to zero.
4. What an operator takes in float32 alone stays so: constants (the scales of a Resize) by themselves, and with what is
   computed (NonMaxSuppression) or given (DynamicQuantizeLinear) the whole node. So does what handles sequences.
5. Islands compute in float32: their constants stay so, and Casts stand where other nodes begin. A QuantizeLinear behind
   an island, and a DequantizeLinear that only islands read, belong to it: between them and the rest are integers.
   Both ends of such a pair have the scale that FP16 has, in their own types.
6. What has subgraphs (If, Loop, Scan) computes in float32, and so do they.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant, new_initializer, walk
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.graphs.subgraphs import has_subgraphs

if TYPE_CHECKING:
    import onnx_ir as ir

FP16_MAX = float(np.finfo(np.float16).max)

_HALF = "tensor(float16)"

# They say their type themselves, in an attribute or in the specification's function.
_TYPED = frozenset(
    {"ConstantOfShape", "EyeLike", "MeanVarianceNormalization", "Bernoulli", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike"}
)


@keeps_names
def to_fp16(model: ir.Model, islands: Collection[str] = ()) -> None:
    """Makes a float32 graph, with or without Q/DQ pairs, a float16 one, in place.

    Args:
        model: The graph.
        islands: Names of nodes that stay float32 (`edgeq.exporting.planning.fp16_audit`).

    Raises:
        ModelError: a constant does not fit into float16.
    """
    import onnx_ir as ir

    floats = [position for position, value in enumerate(model.graph.outputs) if value.dtype == ir.DataType.FLOAT]
    kept = _with_pairs(model, islands)
    _halve_constants(model, kept)
    for node in walk(model):
        if node in kept:
            continue
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(ir.DataType.FLOAT16)
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
    _cast_borders(model, kept)
    _cast_outputs(model, floats)


def _with_pairs(model: ir.Model, islands: Collection[str]) -> set[ir.Node]:
    """Returns the nodes that stay float32: islands with their Q/DQ nodes, and those of the rules 4 and 6."""
    kept = {node for node in model.graph if node.name in islands or _is_float32_alone(node) or has_subgraphs(node)}
    kept.update(node for graph in model.graph.subgraphs() for node in graph)
    for node in walk(model):
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None and node.inputs[0].producer() in kept:
            kept.add(node)
    for node in reversed(list(model.graph)):
        readers = [use.node for use in node.outputs[0].uses()]
        if node.op_type == "DequantizeLinear" and readers and all(reader in kept for reader in readers):
            kept.add(node)
    return kept


def _is_float32_alone(node: ir.Node) -> bool:
    import onnx_ir as ir

    computed = [index for index, value in enumerate(node.inputs) if value is not None and constant(value) is None]
    given = {index for index, value in enumerate(node.outputs) if value.dtype == ir.DataType.FLOAT}
    ends = (*(value for value in node.inputs if value is not None), *node.outputs)
    return (
        node.op_type in _TYPED
        or any(not isinstance(value.type, ir.TensorType) for value in ends)
        or bool(_float32_inputs(node).intersection(computed))
        or bool(_float32_places(node, "outputs") & given)
    )


def _takes_float32(node: ir.Node, index: int, kept: Collection[ir.Node]) -> bool:
    return node in kept or index in _float32_inputs(node)


def _float32_inputs(node: ir.Node) -> frozenset[int]:
    """Returns the positions of the inputs that an operator takes in float32 and not in float16."""
    return _float32_places(node, "inputs")


def _float32_places(node: ir.Node, end: Literal["inputs", "outputs"]) -> frozenset[int]:
    imports = node.graph.opset_imports if node.graph is not None else {}
    domain = "" if node.domain == "ai.onnx" else node.domain
    places = _schema_places(node.op_type, imports.get(domain, 0), domain, end)
    count = len(node.inputs if end == "inputs" else node.outputs)
    # The last parameter of a schema stands for all that follow.
    return frozenset(index for index in range(count) if places and places[min(index, len(places) - 1)])


@functools.cache
def _schema_places(operator: str, opset: int, domain: str, end: Literal["inputs", "outputs"]) -> tuple[bool, ...]:
    """Returns for each parameter of an operator whether it is float32 and cannot be float16."""
    import onnx

    if not onnx.defs.has(operator, opset, domain):
        return ()
    schema = onnx.defs.get_schema(operator, opset, domain)
    return tuple("tensor(float)" in each.types and _HALF not in each.types for each in getattr(schema, end))


def _halve_constants(model: ir.Model, kept: Collection[ir.Node]) -> None:
    import onnx_ir as ir

    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        uses = [use for use in value.uses() if not _takes_float32(use.node, use.idx, kept)]
        if not uses:
            continue
        is_scale = any(use.idx == 1 and use.node.op_type in ("QuantizeLinear", "DequantizeLinear") for use in uses)
        array = scales_rounded_up(tensor.numpy()).astype(np.float16) if is_scale else _half(name, tensor)
        if len(uses) == len(value.uses()) and value not in model.graph.outputs:
            del model.graph.initializers[name]  # its name is free for the other
        half = new_initializer(model, name, array)
        for use in uses:
            use.node.replace_input_with(use.idx, half)
        if is_scale:  # for the end of a pair that stays float32
            value.const_value = ir.tensor(array.astype(np.float32), name=name)


def _half(name: str, tensor: ir.TensorProtocol) -> np.ndarray:
    array = tensor.numpy()
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    if largest > FP16_MAX:
        raise ModelError(
            f"{name}: holds {largest:.3g}, and FP16 ends at {FP16_MAX:.0f}; the model cannot be typed FP16, take fp32"
        )
    return array.astype(np.float16)


def scales_rounded_up(scale: np.ndarray) -> np.ndarray:
    """Returns positive scales as the nearest FP16 numbers that are not smaller, float32 of the same shape (rule 3)."""
    limited = np.minimum(scale, np.float32(FP16_MAX))
    half = limited.astype(np.float16)
    above: np.ndarray = np.where(half.astype(np.float32) < limited, np.nextafter(half, np.float16(np.inf)), half)
    return above.astype(np.float32)


def _cast_borders(model: ir.Model, kept: Collection[ir.Node]) -> None:
    """Puts one Cast behind each input and each island's output that others read, and before what islands read."""
    import onnx_ir as ir

    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    for value in values:
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        is_float = value.dtype == ir.DataType.FLOAT
        others = [use for use in value.uses() if _takes_float32(use.node, use.idx, kept) != is_float]
        if others:
            result = _cast(model, value, ir.DataType.FLOAT16 if is_float else ir.DataType.FLOAT)
            for use in others:
                use.node.replace_input_with(use.idx, result)


def _cast(model: ir.Model, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Returns a value in another type; the node stands directly behind what makes it."""
    import onnx_ir as ir

    suffix = "fp16" if dtype == ir.DataType.FLOAT16 else "fp32"
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}_to_{suffix}")
    (result,) = cast.outputs
    result.name, result.shape, result.type = f"{value.name}_{suffix}", value.shape, ir.TensorType(dtype)
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(next(iter(model.graph)), cast)
    else:
        model.graph.insert_after(producer, cast)
    return result


def _cast_outputs(model: ir.Model, floats: Sequence[int]) -> None:
    """Casts those outputs back to float32, by their positions, that are float16 now."""
    import onnx_ir as ir

    for index in floats:
        value = model.graph.outputs[index]
        if value.dtype != ir.DataType.FLOAT16:
            continue
        cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}_to_fp32")
        result = cast.outputs[0]
        # The name is the graph's interface; what computes it gets another.
        result.name, value.name = value.name, f"{value.name}_fp16"
        result.shape, result.type = value.shape, ir.TensorType(ir.DataType.FLOAT)
        model.graph.append(cast)
        model.graph.outputs[index] = result
