"""Computes in float32 what a graph computes in half, bfloat16 or double precision; its ends keep their types.

The ranges, plans and integers of edgeq are those of a float32 graph. By number:

1. Constants become float32, exactly but for doubles: those beyond its range become its ends.
2. What is computed is float32, and so is what operators are told to make (Cast, ConstantOfShape, ...). A Cast between
   two of these types does nothing any more and goes.
3. An input of such a type is cast behind it, an output before it.

The rounding of the narrower type is gone, so that half models come out a little more exact than they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import drop_unused
from edgeq.exporting.passes.bypass import bypass_identities
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx_ir as ir

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype")


def compute_in_float32(model: ir.Model) -> RewriteReport:
    """Brings the inside of a cleaned graph with shapes to float32, in place, and returns which tensors were not."""
    import onnx_ir as ir

    types = [value.dtype for value in model.graph.outputs]
    narrow = [value for value in _computed(model) if _is_other_float(value.dtype) and not _is_last_cast(model, value)]
    inputs = [value for value in model.graph.inputs if _is_other_float(value.dtype) and _to_cast(value)]
    constants = [value for value in _constants(model) if _is_other_float(value.dtype)]
    if not (narrow or inputs or constants):
        return RewriteReport()
    for value in constants:
        assert value.const_value is not None  # noqa: S101 - initializers have values
        value.const_value = ir.tensor(_as_float32(value.const_value.numpy()), name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in model.graph.all_nodes():
        if not _is_last_cast(model, node.outputs[0]):
            _change_attributes(node)
    changed = tuple(str(value.name) for value in (*inputs, *constants, *narrow))
    for value in narrow:
        if isinstance(value.type, ir.TensorType):
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for value in inputs:
        _cast_input(model, value)
    _bypass_casts(model)
    for index, dtype in enumerate(types):
        if dtype is not None and _is_other_float(dtype):
            _cast_output(model, index, dtype)
    drop_unused(model)
    return RewriteReport(changed)


def _is_other_float(dtype: ir.DataType | None) -> bool:
    import onnx_ir as ir

    return dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def _is_last_cast(model: ir.Model, value: ir.Value) -> bool:
    """Says whether a tensor is an output that a Cast makes of float32, which it may remain."""
    import onnx_ir as ir

    node = value.producer()
    if node is None or node.op_type != "Cast" or node.graph is not model.graph or not value.is_graph_output():
        return False
    if value.uses():
        return False
    source = node.inputs[0]
    return source is not None and source.dtype == ir.DataType.FLOAT


def _to_cast(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Returns the readers of an input and where they read it, but for those that cast it to float32."""
    import onnx_ir as ir

    return [
        (use.node, use.idx)
        for use in value.uses()
        if use.node.op_type != "Cast" or use.node.attributes["to"].as_int() != ir.DataType.FLOAT
    ]


def _computed(model: ir.Model) -> Iterator[ir.Value]:
    """Yields the tensors that nodes make, in subgraphs too, and what subgraphs are given."""
    for graph in model.graph.subgraphs():
        yield from graph.inputs
    for node in model.graph.all_nodes():
        yield from node.outputs


def _constants(model: ir.Model) -> list[ir.Value]:
    graphs = (model.graph, *model.graph.subgraphs())
    return [value for graph in graphs for value in graph.initializers.values() if value.const_value is not None]


def _as_float32(array: np.ndarray) -> np.ndarray:
    limits = np.finfo(np.float32)
    finite = np.isfinite(array)
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    return np.where(finite, np.clip(narrow, limits.min, limits.max), narrow)


def _change_attributes(node: ir.Node) -> None:
    """Has an operator make float32 where it is told the type to make."""
    import onnx_ir as ir

    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR and _is_other_float(attribute.as_tensor().dtype):
            tensor = ir.tensor(_as_float32(attribute.as_tensor().numpy()))
            node.attributes[name] = ir.AttrTensor(name, tensor)
        elif name in _TYPE_ATTRIBUTES and attribute.value in list(filter(_is_other_float, ir.DataType)):
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)


def _cast_input(model: ir.Model, value: ir.Value) -> None:
    import onnx_ir as ir

    readers = _to_cast(value)
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}_to_fp32")
    (result,) = cast.outputs
    result.name, result.shape, result.type = f"{value.name}_fp32", value.shape, ir.TensorType(ir.DataType.FLOAT)
    model.graph.insert_before(next(iter(model.graph)), cast)
    for node, position in readers:
        node.replace_input_with(position, result)


def _bypass_casts(model: ir.Model) -> None:
    import onnx_ir as ir

    for node in model.graph.all_nodes():
        source = node.inputs[0] if node.inputs else None
        if (
            node.op_type in ("Cast", "CastLike")
            and source is not None
            and source.dtype == node.outputs[0].dtype == ir.DataType.FLOAT
        ):
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
    bypass_identities(model)


def _cast_output(model: ir.Model, index: int, dtype: ir.DataType) -> None:
    import onnx_ir as ir

    value = model.graph.outputs[index]
    if value.is_graph_input() or value.dtype == dtype:  # an input that is an output, or one tensor twice
        return
    cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}_to_{dtype.name.lower()}")
    (result,) = cast.outputs
    # The name is the graph's interface; what computes it gets another.
    result.name, value.name = value.name, f"{value.name}_fp32"
    result.shape, result.type = value.shape, ir.TensorType(dtype)
    model.graph.append(cast)
    for position, output in enumerate(list(model.graph.outputs)):
        if output is value:
            model.graph.outputs[position] = result
