"""A TFLite file as a graph: what its operators read and write, and on which grids its tensors lie.

The format is the flatbuffer schema of TensorFlow Lite, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from edgeq.errors import InputError, MissingDependencyError, ModelError

_IDENTIFIER = b"TFL3"
_VERSION = 3
_LEFT_OUT = -1

# Places in the tables of fields of `Model` and `SubGraph`, by the schema.
_SIGNATURES_FIELD, _OUTPUTS_FIELD = 18, 8
_INT32_BYTES = 4

_DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BOOL": "bool", "INT8": "int8", "UINT8": "uint8",
    "INT16": "int16", "UINT16": "uint16", "INT32": "int32", "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """A tensor of the main subgraph.

    Attributes:
        index: Its number in the file.
        name: Its name; files may use one name twice.
        shape: Its shape; images are `(N, H, W, C)`.
        dtype: numpy's name of its type; the schema's name, in lower case, where numpy has none.
        constant: Whether its values are in the file.
        scales: Step of each channel along `channel_axis`, or one for the whole tensor; empty for real numbers.
        zero_points: The integer that stands for 0.0, for each scale.
        channel_axis: Axis that several scales belong to.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    channel_axis: int = 0


@dataclass(frozen=True)
class Operator:
    """An operator of the main subgraph.

    Attributes:
        index: Its place in the order of execution.
        kind: The schema's name of it, such as `CONV_2D`; a custom one's own name.
        inputs: Tensor numbers, -1 for one that is left out.
        outputs: Tensor numbers.
        options: The schema's options of the operator.
        custom: Whether it is no part of TensorFlow Lite.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = field(default=None, compare=False, repr=False)
    custom: bool = False


@dataclass(frozen=True)
class Graph:
    """The main subgraph of a TFLite file.

    Attributes:
        tensors: By number.
        operators: In the order of execution.
        inputs: Numbers of the graph's inputs.
        outputs: Numbers of the graph's outputs.
        values: Tensor number -> array of the float32 constants.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    values: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def producer(self) -> Mapping[int, Operator]:
        """Tensor number -> the operator that computes it."""
        return {index: operator for operator in self.operators for index in operator.outputs}

    @cached_property
    def readers(self) -> Mapping[int, tuple[Operator, ...]]:
        """Tensor number -> the operators that read it."""
        found: dict[int, list[Operator]] = {tensor.index: [] for tensor in self.tensors}
        for operator in self.operators:
            for index in dict.fromkeys(operator.inputs):
                if index >= 0:
                    found[index].append(operator)
        return {index: tuple(operators) for index, operators in found.items()}

    def activations(self, operator: Operator) -> tuple[int, ...]:
        """Returns the inputs of an operator that are computed: real or quantized numbers, no constants, no shapes."""
        return tuple(index for index in operator.inputs if index >= 0 and self._is_activation(index))

    def moved(self, operator: Operator) -> tuple[int, ...]:
        """Returns the inputs whose values an operator that only moves values moves: activations and real constants."""
        activations = self.activations(operator)
        if operator.kind == "PADV2":
            return activations  # its other real input is what it pads with
        return tuple(index for index in operator.inputs if index in activations or index in self.values)

    def _is_activation(self, index: int) -> bool:
        tensor = self.tensors[index]
        return not tensor.constant and tensor.dtype in ("float32", "float16", "int8", "uint8", "int16")


def read_graph(content: bytes, name: str) -> Graph:
    """Returns the graph of a TFLite file.

    Args:
        content: The file's bytes.
        name: What to call it in errors.

    Raises:
        InputError: it is no TFLite file, is cut short, or of another version of the schema.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    model = unpack(content, name)
    codes = [_kind(code) for code in model.operatorCodes or ()]
    subgraph = model.subgraphs[0]
    empty = {index for index, buffer in enumerate(model.buffers) if buffer.data is None or not len(buffer.data)}
    tensors = tuple(_tensor(index, tensor, empty) for index, tensor in enumerate(subgraph.tensors))
    operators = tuple(
        Operator(
            index,
            codes[operator.opcodeIndex][0],
            _numbers(operator.inputs),
            _numbers(operator.outputs),
            operator.builtinOptions,
            codes[operator.opcodeIndex][1],
        )
        for index, operator in enumerate(subgraph.operators)
    )
    try:
        values = {
            tensor.index: np.frombuffer(model.buffers[subgraph.tensors[tensor.index].buffer].data, np.float32)
            .reshape(tensor.shape)
            for tensor in tensors
            if tensor.constant and tensor.dtype == "float32" and subgraph.tensors[tensor.index].sparsity is None
        }  # fmt: skip
    except ValueError as error:
        raise InputError(f"{name}: a weight does not fit its shape ({error}); copy or export it again") from error
    return Graph(tensors, operators, _numbers(subgraph.inputs), _numbers(subgraph.outputs), values)


def require_builtin(graph: Graph, name: str) -> None:
    """Raises `ModelError` if a graph has operators that are no part of TensorFlow Lite."""
    custom = sorted({operator.kind for operator in graph.operators if operator.custom})
    if custom:
        raise ModelError(
            f"{name}: has the custom operators {', '.join(custom)}, which only the program that it was made for "
            "knows; convert the model without them"
        )


def unpack(content: bytes, name: str) -> Any:
    """Returns the schema's `ModelT` of a TFLite file; see `read_graph` for the errors."""
    try:
        from ai_edge_litert.tools import flatbuffer_utils
    except ImportError as error:
        raise MissingDependencyError("ai_edge_litert", "tflite", "Reading TFLite files") from error
    if content[4:8] != _IDENTIFIER:
        raise InputError(f"{name}: is not a TFLite file; wanted one that begins with its mark {_IDENTIFIER.decode()}")
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        for code in model.operatorCodes or ():
            # Files of before 2020 have it in the old field alone, where other tools do not look.
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        for buffer in model.buffers:
            if buffer.data is not None:
                # Weights behind the flatbuffer come as bytes, which a builder would write one by one.
                buffer.data = np.frombuffer(buffer.data, np.uint8)
        _check_numbers(model)
        complete = _is_complete(model)
    # A flatbuffer is offsets into itself: reading a damaged one trips over anything.
    except Exception as error:
        raise InputError(
            f"{name}: is damaged or cut short ({type(error).__name__} while reading it); copy or export it again"
        ) from error
    if model.version != _VERSION:
        raise InputError(f"{name}: is of version {model.version} of TFLite's schema, this edgeq reads {_VERSION}")
    if not complete:
        raise InputError(f"{name}: is cut short, weights at its end are missing; copy or export it again")
    return model


def rename_tensors(content: bytes, names: Mapping[int, str], name: str) -> bytes:
    """Returns a TFLite file with other tensor names, its signature's inputs and outputs among them.

    Args:
        content: The file's bytes.
        names: Tensor number -> new name, for some or all tensors.
        name: What to call the file in errors.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = unpack(content, name)
    for index, new in names.items():
        model.subgraphs[0].tensors[index].name = new.encode()
    for signature in model.signatureDefs or ():
        for entry in (*signature.inputs, *signature.outputs):
            if entry.tensorIndex in names:
                entry.name = names[entry.tensorIndex].encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_outputs(content: bytes, outputs: Sequence[int]) -> bytes:
    """Returns a TFLite file that gives those tensors, and nothing else; it has no signature.

    Args:
        content: The bytes of a file that `read_graph` takes.
        outputs: Numbers of the tensors.
    """
    from ai_edge_litert import schema_py_generated as schema

    # Unpacked and packed again, the weights would take a second or more. A field of a flatbuffer tells how far behind
    # it its value lies, so the new list goes to the end of the file.
    changed = bytearray(content) + bytes(-len(content) % _INT32_BYTES)
    model = schema.Model.GetRootAs(changed)
    signatures = model._tab.Offset(_SIGNATURES_FIELD)
    if signatures:
        length = model._tab.Indirect(model._tab.Pos + signatures)
        changed[length : length + _INT32_BYTES] = bytes(_INT32_BYTES)
    table = model.Subgraphs(0)._tab
    field = table.Pos + table.Offset(_OUTPUTS_FIELD)
    changed[field : field + _INT32_BYTES] = struct.pack("<I", len(changed) - field)
    return bytes(changed) + struct.pack(f"<I{len(outputs)}i", len(outputs), *outputs)


def _kind(code: Any) -> tuple[str, bool]:
    """Returns an operator code's name, and whether it is a custom one."""
    from ai_edge_litert import schema_py_generated as schema

    number = code.builtinCode
    if number == schema.BuiltinOperator.CUSTOM:
        return (code.customCode or b"CUSTOM").decode(errors="replace"), True
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return names.get(number, f"operator {number}"), number not in names


def _tensor(index: int, tensor: Any, empty: set[int]) -> Tensor:
    from ai_edge_litert import schema_py_generated as schema

    types = {value: key for key, value in vars(schema.TensorType).items() if isinstance(value, int)}
    kind = types.get(tensor.type, f"type {tensor.type}")
    quantization = tensor.quantization
    scales = _floats(quantization.scale) if quantization is not None else ()
    return Tensor(
        index,
        (tensor.name or b"").decode(errors="replace"),
        _numbers(tensor.shape),
        _DTYPES.get(kind, kind.lower()),
        tensor.buffer not in empty,
        scales,
        _numbers(quantization.zeroPoint) if scales else (),
        int(quantization.quantizedDimension) if scales else 0,
    )


def _check_numbers(model: Any) -> None:
    """Raises `IndexError` where the main subgraph refers to tensors, operators or buffers that are not there."""
    subgraph = model.subgraphs[0]
    for operator in subgraph.operators:
        if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
            raise IndexError(operator.opcodeIndex)
    given = [index for operator in subgraph.operators for index in _numbers(operator.inputs) if index != _LEFT_OUT]
    made = [index for operator in subgraph.operators for index in _numbers(operator.outputs)]
    for index in (*given, *made, *_numbers(subgraph.inputs), *_numbers(subgraph.outputs)):
        if not 0 <= index < len(subgraph.tensors):
            raise IndexError(index)
    for tensor in subgraph.tensors:
        if not 0 <= tensor.buffer < len(model.buffers):
            raise IndexError(tensor.buffer)


def _is_complete(model: Any) -> bool:
    """Returns whether every constant has the bytes that its shape and type ask for."""
    from ai_edge_litert import schema_py_generated as schema

    sizes = {getattr(schema.TensorType, kind): np.dtype(dtype).itemsize for kind, dtype in _DTYPES.items()}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data) or tensor.type not in sizes or tensor.sparsity is not None:
            continue
        if len(data) < sizes[tensor.type] * int(np.prod(_numbers(tensor.shape), initial=1)):
            return False
    return True


def _numbers(values: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values) if values is not None else ()


def _floats(values: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if values is not None else ()
