"""A model in another floating-point type as a whole, as exporters of half models write it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.builder import UnsuitableError

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
_SIZES_OF = frozenset({"Resize", "Upsample"})


def in_type(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """Returns a float32 model in another type, its ends too; scales of a Resize stay float32, which alone it takes.

    Raises:
        UnsuitableError: some operator does not take the type.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _change_graph(copied.graph, kind)
    for node in (node for function in copied.functions for node in function.node):
        _change_node(node, kind)
    try:
        onnx.checker.check_model(copied, full_check=True)
    except Exception as error:
        raise UnsuitableError from error
    return copied


def _change_graph(graph: onnx.GraphProto, kind: int) -> None:
    uses = list(_uses(graph))
    for tensor in graph.initializer:
        readers = [(node.op_type, place) for name, node, place in uses if name == tensor.name]
        if not readers or any(operator not in _SIZES_OF or place == 0 for operator, place in readers):
            _change_tensor(tensor, kind)
    types = {each.name: each.data_type for each in graph.initializer}
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == TensorProto.FLOAT:
            info.type.tensor_type.elem_type = types.get(info.name, kind)
    for node in graph.node:
        _change_node(node, kind)


def _uses(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.NodeProto, int]]:
    for node in graph.node:
        yield from ((name, node, place) for place, name in enumerate(node.input))
        for each in itertools.chain.from_iterable((one.g, *one.graphs) for one in node.attribute):
            yield from _uses(each)


def _change_node(node: onnx.NodeProto, kind: int) -> None:
    for each in node.attribute:
        if each.name in _TYPE_ATTRIBUTES and each.i == TensorProto.FLOAT:
            each.i = kind
        if each.type == onnx.AttributeProto.TENSOR:
            _change_tensor(each.t, kind)
        for graph in (*((each.g,) if each.HasField("g") else ()), *each.graphs):
            _change_graph(graph, kind)


def _change_tensor(tensor: TensorProto, kind: int) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        with np.errstate(over="ignore"):
            array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
