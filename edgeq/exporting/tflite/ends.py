"""Outputs of a TFLite file as tensors of their own: a tensor has one name there, and so one place among the ends."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from edgeq.exporting.tflite.graph import read_graph, unpack


def with_own_outputs(content: bytes, name: str) -> bytes:
    """Returns a TFLite file none of whose outputs is an input or another output; the same bytes if it is one.

    What appears again is copied by a RESHAPE to the shape that it has.

    Args:
        content: The file's bytes.
        name: What to call it in errors.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    graph = read_graph(content, name)
    taken = {*graph.inputs}
    again = []
    for place, index in enumerate(graph.outputs):
        if index in taken:
            again.append(place)
        taken.add(index)
    if not again:
        return content
    model = unpack(content, name)
    outputs = [*graph.outputs]
    for place in again:
        outputs[place] = _copy(model, outputs[place])
        _point_signature(model, graph.outputs[place], outputs[place], inputs=graph.inputs)
    model.subgraphs[0].outputs = outputs
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _copy(model: Any, index: int) -> int:
    """Returns the number of a new tensor that an operator at the end fills with the values of another."""
    from ai_edge_litert import schema_py_generated as schema

    subgraph = model.subgraphs[0]
    copied = deepcopy(subgraph.tensors[index])
    shape = schema.TensorT()
    shape.name, shape.type, shape.shape = b"shape", schema.TensorType.INT32, [len(copied.shape)]
    shape.buffer, copied.buffer = len(model.buffers), len(model.buffers) + 1
    model.buffers += [schema.BufferT(), schema.BufferT()]
    model.buffers[shape.buffer].data = np.frombuffer(np.array(copied.shape, np.int32).tobytes(), np.uint8)
    subgraph.tensors += [shape, copied]
    operator = schema.OperatorT()
    operator.opcodeIndex = _code(model, schema.BuiltinOperator.RESHAPE)
    operator.inputs, operator.outputs = [index, len(subgraph.tensors) - 2], [len(subgraph.tensors) - 1]
    subgraph.operators.append(operator)
    return len(subgraph.tensors) - 1


def _code(model: Any, kind: int) -> int:
    """Returns the number of an operator's code in a file, which gets it where it has none."""
    from ai_edge_litert import schema_py_generated as schema

    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _point_signature(model: Any, old: int, new: int, *, inputs: tuple[int, ...]) -> None:
    """Lets one of the signature's outputs that are a tensor be another; the first is left to the tensor itself."""
    for signature in model.signatureDefs or ():
        entries = [entry for entry in signature.outputs if entry.tensorIndex == old]
        for entry in entries[old not in inputs :][:1]:
            entry.tensorIndex = new
