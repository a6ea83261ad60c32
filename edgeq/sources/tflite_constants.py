"""Computes what constants alone decide in a TFLite file, once. Exact: LiteRT itself computes it.

A weight that is stored as float16, sparse or in another layout, behind the operators that bring it into form, is a
constant all the same, and only a constant weight can be quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.tflite.graph import Graph, Operator, read_graph, unpack
from edgeq.runtimes.base import first_line
from edgeq.runtimes.litert import LiteRtSession, quiet_stderr

_COMPUTES_WEIGHTS = frozenset(
    {
        "ADD", "CAST", "CONCATENATION", "DENSIFY", "DEQUANTIZE", "DIV", "EXPAND_DIMS", "MEAN", "MUL", "NEG", "PACK",
        "RESHAPE", "REVERSE_V2", "RSQRT", "SLICE", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE",
        "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE", "UNPACK",
    }
)  # fmt: skip
"""Operators without state that make nothing large out of little."""


def fold_computed_constants(content: bytes, name: str) -> bytes:
    """Returns a TFLite file without the operators that constants alone decide; the same bytes if it has none.

    Args:
        content: The file's bytes.
        name: What to call it in errors.

    Raises:
        ModelError: LiteRT cannot compute one of them.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    graph = read_graph(content, name)
    folded = _folded(graph)
    if not folded:
        return content
    made = [index for operator in folded for index in operator.outputs]
    arrays = _computed(content, folded, made, name)
    model = unpack(content, name)
    subgraph = model.subgraphs[0]
    for index, array in zip(made, arrays, strict=True):
        tensor = subgraph.tensors[index]
        tensor.buffer, tensor.shape = len(model.buffers), np.array(array.shape, np.int32)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    gone = {operator.index for operator in folded}
    subgraph.operators = [each for index, each in enumerate(subgraph.operators) if index not in gone]
    _empty_unread(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _folded(graph: Graph) -> list[Operator]:
    """Returns the operators that constants alone decide, less those that make an output of the graph."""
    known = {tensor.index for tensor in graph.tensors if tensor.constant}
    found = []
    for operator in graph.operators:
        given = [index for index in operator.inputs if index >= 0]
        made = {*operator.outputs}
        if operator.kind in _COMPUTES_WEIGHTS and known.issuperset(given) and made.isdisjoint(graph.outputs):
            known |= made
            found.append(operator)
    return found


def _computed(content: bytes, operators: Sequence[Operator], wanted: Sequence[int], name: str) -> list[np.ndarray]:
    """Returns the arrays of tensors that a file of these operators alone computes."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = unpack(content, name)
    subgraph = model.subgraphs[0]
    subgraph.operators = [subgraph.operators[operator.index] for operator in operators]
    subgraph.inputs, subgraph.outputs = [], list(wanted)
    model.signatureDefs = []
    engine = LiteRtSession.import_engine()
    try:
        with quiet_stderr():
            # Without XNNPACK, which takes float16 weights in and computes nothing of them.
            interpreter = engine.Interpreter(
                model_content=bytes(flatbuffer_utils.convert_object_to_bytearray(model)),
                experimental_op_resolver_type=engine.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            interpreter.allocate_tensors()
            interpreter.invoke()
            return [interpreter.get_tensor(index).copy() for index in wanted]
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"{name}: its weights are computed, and LiteRT cannot do it ({first_line(error)}); convert the model again "
            "with plain float32 weights"
        ) from error


def _empty_unread(model: Any) -> None:
    """Takes the data of constants that nothing reads any more out of a file."""
    subgraph = model.subgraphs[0]
    read = {int(index) for operator in subgraph.operators for index in operator.inputs} | {*map(int, subgraph.outputs)}
    used = {subgraph.tensors[index].buffer for index in read if index >= 0}
    used |= {tensor.buffer for other in model.subgraphs[1:] for tensor in other.tensors}
    for index, tensor in enumerate(subgraph.tensors):
        if index not in read and tensor.buffer not in used:
            model.buffers[tensor.buffer].data = None
