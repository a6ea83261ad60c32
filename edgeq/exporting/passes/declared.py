"""Compares the nodes of a graph with what an opset declares of their operators (onnx.defs)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from edgeq.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


_OBSOLETE = "consumed_inputs"
"""Until opset 5 a hint about memory."""


def omit_meaningless(model: ir.Model, opset: int) -> None:
    """Takes away, in place, attributes that `opset` does not have and that say nothing: at a newer opset's default."""
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        declared = _schema(node.op_type, opset) if node.domain == "" else None
        newest = _schema(node.op_type, None) if node.domain == "" else None
        for name in list(node.attributes):
            if declared is not None and newest is not None and name not in declared.attributes:
                wanted = newest.attributes.get(name)
                if name == _OBSOLETE or (wanted is not None and _default(wanted) == node.attributes[name].value):
                    del node.attributes[name]


def require_declared(model: ir.Model, opset: int) -> None:
    """Checks that every ONNX operator is used as `opset` declares it.

    Raises:
        ModelError: one is not; the message says which node and what it has that the opset does not know.
    """
    import onnx_ir as ir

    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain == "":
            complaint = _complaint(node, opset)
            if complaint is not None:
                raise ModelError(f"node {node.name or node.outputs[0].name!r}: {node.op_type} {complaint}")


def is_first(op_type: str, opset: int) -> bool:
    """Returns whether an ONNX operator is new in an opset."""
    return min(_versions(op_type)) == opset


def _complaint(node: ir.Node, opset: int) -> str | None:
    declared = _schema(node.op_type, opset)
    if declared is None or declared.deprecated:
        newest = _schema(node.op_type, None)
        if newest is None:
            return "is not an ONNX operator; export the model with standard operators"
        if newest.deprecated:
            return f"is not in opset {opset} any more, and edgeq has no rule that replaces it; export the model again"
        first = min(_versions(node.op_type))
        return f"is an operator since opset {first}; give `opset` {first}, or export the model for opset {opset}"
    for name in node.attributes:
        if name not in declared.attributes:
            return f"has the attribute {name!r}, which opset {opset} does not know; export the model for opset {opset}"
    given = len(node.inputs)
    if given > declared.max_input:
        return f"has {given} inputs and takes {declared.max_input} in opset {opset}; export the model for that opset"
    return _wrong_type(node, declared, opset)


def _wrong_type(node: ir.Node, declared: onnx.defs.OpSchema, opset: int) -> str | None:
    import onnx_ir as ir

    allowed = {each.type_param_str: set(each.allowed_type_strs) for each in declared.type_constraints}
    for position, value in enumerate(node.inputs):
        parameter = declared.inputs[min(position, len(declared.inputs) - 1)]
        if value is None or not isinstance(value.type, ir.TensorType):
            continue
        dtype = value.type.dtype.name.lower()
        if f"tensor({dtype})" not in allowed.get(parameter.type_str, {parameter.type_str}):
            return f"takes no {dtype} in opset {opset} ({parameter.name} {value.name!r}); export the model in float32"
    return None


def _schema(op_type: str, opset: int | None) -> onnx.defs.OpSchema | None:
    """Returns the declaration of an operator in an opset, by default the newest; `None` where there is none."""
    import onnx

    try:
        return onnx.defs.get_schema(op_type, onnx.defs.onnx_opset_version() if opset is None else opset, "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _versions(op_type: str) -> list[int]:
    import onnx

    schemas = onnx.defs.get_all_schemas_with_history()
    return [each.since_version for each in schemas if each.name == op_type and each.domain == ""] or [0]


def _default(declared: onnx.defs.OpSchema.Attribute) -> object:
    import onnx
    import onnx_ir as ir

    if declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return None
    return ir.serde.deserialize_attribute(declared.default_value).value
