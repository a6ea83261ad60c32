"""The digest that identifies a float graph: ranges, files and results that belong to one model carry the same.

Everything that decides the outputs is in it: operators, attributes with the bodies of subgraphs, edges, every constant
(type, shape and bytes), inputs and outputs. So are the names of tensors, because ranges refer to tensors by name; names
of nodes, of constants and of what only a ReLU or Clip reads, which never has a range, are not.

What differs between two forms of one model is not in it. By number:

1. The batch: the first axis of inputs and outputs. A Reshape counts by the shape that it makes, without its first axis;
   an Expand to a free batch counts as what it repeats.
2. The opset, 17 to 19: an attribute at its default counts as absent, the axes of a reduction count as an input, a Split
   counts as the Slices that it becomes on the way down to opset 17.

From opset 20 on GELU is one operator, and so is attention from 23 on. Such a graph has other tensors, and so has what
torch exports of a transformer with a free batch; ranges of one do not serve the other, and the digests differ.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, specs
from edgeq.exporting.graphs.weights import release

if TYPE_CHECKING:
    import onnx_ir as ir

VERSION = 2
"""Version 1 left out constants and attributes of all but weighted layers, and was written without a number."""

_ABSENT = b"absent"


def graph_digest(model: ir.Model) -> str:
    """Returns `VERSION:SHA-256` of a cleaned float graph with shapes, see the module.

    Raises:
        ModelError: an input or output has no known type and shape.
    """
    graph = model.graph
    values: dict[int, bytes] = {}
    for value, spec in zip(graph.inputs, specs(graph.inputs), strict=True):
        values[id(value)] = _combined("input", spec.name, spec.dtype, str(spec.shape[1:]))
    _add_nodes(graph, values)
    outputs = [
        _combined("output", spec.name, spec.dtype, str(spec.shape[1:]), _of_value(value, values))
        for value, spec in zip(graph.outputs, specs(graph.outputs), strict=True)
    ]
    inputs = [values[id(value)] for value in graph.inputs]
    return f"{VERSION}:{_combined(*inputs, *outputs).hex()}"


def _add_nodes(graph: ir.Graph, values: dict[int, bytes]) -> None:
    """Adds the digest of each value that the nodes of a sorted graph compute, by the value's identity."""
    opset = graph.opset_imports
    for node in graph:
        if node.op_type == "Split" and (slices := _as_slices(node, values)) is not None:
            values |= slices
            continue
        if node.op_type == "Expand" and _repeats_for_the_batch(node):
            values[id(node.outputs[0])] = _of_value(node.inputs[0], values)
            continue
        digest = _of_node(node, values, opset.get(node.domain))
        for position, output in enumerate(node.outputs):
            name = "" if _is_inside_activation(output) else output.name or ""
            values[id(output)] = _combined(digest, str(position), name)


def _is_inside_activation(value: ir.Value) -> bool:
    uses = list(value.uses())
    return len(uses) == 1 and uses[0].node.op_type in ("Relu", "Clip") and not value.is_graph_output()


def _of_value(value: ir.Value | None, values: dict[int, bytes]) -> bytes:
    if value is None:
        return _ABSENT
    if id(value) not in values:
        array = constant(value)
        values[id(value)] = _combined("outside", value.name or "") if array is None else _of_array(array)
        del array
        release(value.const_value)
    return values[id(value)]


def _of_node(node: ir.Node, values: dict[int, bytes], opset: int | None) -> bytes:
    attributes = dict(_attributes(node, values, opset))
    inputs = [_of_value(value, values) for value in node.inputs]
    if node.op_type == "Reshape" and (shape := _shape_behind_the_batch(node.outputs[0])) is not None:
        inputs[1:] = [_combined("shape", str(shape))]
        attributes.pop("allowzero", None)
    if node.op_type.startswith("Reduce") and "axes" in node.attributes:
        inputs.append(_of_array(np.array(node.attributes["axes"].as_ints(), np.int64)))
        del attributes["axes"]
    while inputs and inputs[-1] is _ABSENT:
        inputs.pop()
    named = [_combined(name, digest) for name, digest in sorted(attributes.items())]
    return _combined(node.domain, node.op_type, node.overload, str(len(inputs)), *inputs, *named)


def _attributes(node: ir.Node, values: dict[int, bytes], opset: int | None) -> Iterator[tuple[str, bytes]]:
    """Yields the attributes of a node that are not at their default, with their digests."""
    defaults = _defaults(node.domain, node.op_type, opset)
    for name, attribute in node.attributes.items():
        digest = _of_attribute(attribute, values)
        if digest != defaults.get(name):
            yield name, digest


@functools.cache
def _defaults(domain: str, op_type: str, opset: int | None) -> Mapping[str, bytes]:
    """Returns attribute of an operator -> digest of its default, as far as ONNX declares one."""
    import onnx
    import onnx_ir as ir

    if opset is None or not onnx.defs.has(op_type, opset, domain):
        return {}
    declared = onnx.defs.get_schema(op_type, opset, domain).attributes
    return {
        name: _of_attribute(ir.serde.deserialize_attribute(each.default_value), {})
        for name, each in declared.items()
        if each.default_value.type != onnx.AttributeProto.UNDEFINED
    }


def _of_attribute(attribute: ir.Attr, values: dict[int, bytes]) -> bytes:
    import onnx_ir as ir

    kind = attribute.type
    if kind == ir.AttributeType.TENSOR:
        return _combined(kind.name, _of_array(attribute.as_tensor().numpy()))
    if kind == ir.AttributeType.TENSORS:
        return _combined(kind.name, *(_of_array(tensor.numpy()) for tensor in attribute.as_tensors()))
    if kind == ir.AttributeType.GRAPH:
        return _combined(kind.name, _of_body(attribute.as_graph(), values))
    if kind == ir.AttributeType.GRAPHS:
        return _combined(kind.name, *(_of_body(graph, values) for graph in attribute.as_graphs()))
    value = attribute.value
    return _combined(kind.name, repr(tuple(value) if isinstance(value, (list, tuple)) else value))


def _of_body(graph: ir.Graph, outer: dict[int, bytes]) -> bytes:
    """Returns the digest of a subgraph, which may read values of the graphs around it."""
    values = dict(outer)
    for position, value in enumerate(graph.inputs):
        values[id(value)] = _combined("argument", str(position))
    _add_nodes(graph, values)
    return _combined(str(len(graph.inputs)), *(_of_value(value, values) for value in graph.outputs))


def _as_slices(node: ir.Node, values: dict[int, bytes]) -> dict[int, bytes] | None:
    """Returns the digests of a Split's outputs, those of the Slices that compute the same; `None` without lengths."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    lengths = [None if output.shape is None else output.shape[axis] for output in node.outputs]
    ends = list(itertools.accumulate(length for length in lengths if isinstance(length, int)))
    if len(ends) < len(node.outputs):
        return None
    source = _of_value(node.inputs[0], values)
    found = {}
    for start, end, output in zip([0, *ends[:-1]], ends, node.outputs, strict=True):
        window = [_of_array(np.array([number], np.int64)) for number in (start, end, axis)]
        piece = _combined("", "Slice", "", "4", source, *window)
        found[id(output)] = _combined(piece, "0", output.name or "")
    return found


def _repeats_for_the_batch(node: ir.Node) -> bool:
    """Says whether an Expand repeats a tensor for each image of a free batch, and nothing else."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None or len(source.shape) != len(output.shape):
        return False
    first, *rest = output.shape
    return source.shape[0] == 1 and (first == 1 or not isinstance(first, int)) and list(source.shape[1:]) == rest


def _shape_behind_the_batch(value: ir.Value) -> tuple[int, ...] | None:
    """Returns the shape of a value without its first axis; `None` if another axis is free."""
    if value.shape is None or not len(value.shape):
        return None
    rest = tuple(length for length in value.shape[1:] if isinstance(length, int))
    return rest if len(rest) == len(value.shape) - 1 else None


def _of_array(array: np.ndarray) -> bytes:
    return _combined(str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes())


def _combined(*parts: str | bytes) -> bytes:
    """Returns the SHA-256 of parts, each with its length, so that no two sequences of parts look alike."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()
