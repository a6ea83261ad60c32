"""ONNX files without their weights: where large tensors lie in a file, and files that are written piece by piece.

A model of gigabytes is never in memory twice. Its large tensors are read where they lie, in the file itself or in the
files beside it (external data), and are written one by one. Protocol Buffers have no such reader or writer, so both
follow the wire format (protobuf.dev/programming-guides/encoding): a field is a key, a number and a type, and for bytes
a length. Only the fields on the way to a tensor's bytes are known here; all others are copied as they are.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from edgeq.errors import InputError
from edgeq.exporting.graphs import weights
from edgeq.files import atomic_path

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MOST_IN_A_FILE = (1 << 31) - (1 << 24)
"""Bytes of weights that a file holds itself; Protocol Buffers end at 2 GiB."""

# Numbers of fields in onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Types of which a byte holds several.
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_FIXED = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True)
class _Field:
    """A field of a message: where its key, its content and the next field begin."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def is_large(path: Path) -> bool:
    """Returns whether an ONNX file is large, with the file of its weights that `write_large` puts beside it."""
    return path.stat().st_size >= weights.LARGE_MODEL or data_path(path).is_file()


def load_skeleton(path: Path) -> onnx.ModelProto:
    """Returns the model of a file; the large tensors of a large file are external data that lie in the file itself.

    Raises:
        ValueError: the file is no sequence of fields, or ends inside one.
        google.protobuf.message.DecodeError: it is no model.
        OSError: it cannot be read.
    """
    import onnx

    if path.stat().st_size < weights.LARGE_MODEL:
        return onnx.load(path, load_external_data=False)
    model = onnx.ModelProto()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for each in _fields(content, 0, len(content)):
            if each.number == _GRAPH and each.kind == _BYTES:
                _load_graph(model.graph, content, each, path.name)
            else:
                model.MergeFromString(content[each.start : each.end])
    return model


def _load_graph(graph: onnx.GraphProto, content: mmap.mmap, place: _Field, file_name: str) -> None:
    import onnx

    for each in _fields(content, place.content, place.end):
        if each.number != _INITIALIZER or each.kind != _BYTES or each.end - each.content < weights.LARGE_TENSOR:
            graph.MergeFromString(content[each.start : each.end])
            continue
        tensor = graph.initializer.add()
        for part in _fields(content, each.content, each.end):
            if part.number == _RAW_DATA and part.kind == _BYTES:
                tensor.data_location = onnx.TensorProto.EXTERNAL
                place_of = {"location": file_name, "offset": part.content, "length": part.end - part.content}
                for key, value in place_of.items():
                    tensor.external_data.add(key=key, value=str(value))
            else:
                tensor.MergeFromString(content[part.start : part.end])


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    position = start
    while position < end:
        key, after = _varint(content, position, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            body, close = after, _varint(content, after, end)[1]
        elif kind in _FIXED:
            body, close = after, after + _FIXED[kind]
        elif kind == _BYTES:
            length, body = _varint(content, after, end)
            close = body + length
        else:
            raise ValueError(f"a field of the unknown type {kind} at byte {position}")
        if close > end:
            raise ValueError(f"it ends inside the field that begins at byte {position}")
        yield _Field(number, kind, position, body, close)
        position = close


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Returns a number and where it ends."""
    result = shift = 0
    while position < end and shift < 64:
        byte = content[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise ValueError(f"it ends inside a number before byte {position}")


def load_small(proto: onnx.ModelProto, folder: Path) -> None:
    """Puts the external tensors of a model into it, in place, all but the large constants of its graph."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    sizes = {tensor.name: _nbytes(tensor) for tensor in proto.graph.initializer}
    large = {
        name
        for name, size in sizes.items()
        if size >= weights.LARGE_TENSOR and sum(sizes.values()) >= weights.LARGE_MODEL
    }
    for tensor in _get_all_tensors(proto):
        if uses_external_data(tensor) and tensor.name not in large:
            tensor.raw_data = _read_external(tensor, folder)
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")


def _read_external(tensor: onnx.TensorProto, folder: Path) -> bytes:
    """Returns the bytes of a tensor in a file; links are followed, as caches of hubs and installers make them."""
    entry: dict[str, str] = {each.key: each.value for each in tensor.external_data}
    with (folder / entry["location"]).open("rb") as stream:
        stream.seek(int(entry.get("offset", 0)))
        return stream.read(int(entry.get("length", _nbytes(tensor))))


def without_data(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model whose external tensors are empty: what the checker can look at by itself."""
    import onnx

    checked = onnx.ModelProto()
    checked.CopyFrom(proto)
    for tensor in checked.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            del tensor.dims[:]
            tensor.dims.append(0)
    return checked


def require_data(proto: onnx.ModelProto, path: Path) -> None:
    """Checks that the external tensors of a model lie where it says.

    Raises:
        InputError: a file is missing, or too short for a tensor.
    """
    import onnx

    sizes: dict[str, int] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entry = {each.key: each.value for each in tensor.external_data}
        name = entry.get("location", "")
        if name not in sizes:
            place = path.parent / name
            if not name or Path(name).is_absolute() or ".." in Path(name).parts or not place.is_file():
                raise InputError(
                    f"{path}: its weights are in {name or 'a file without a name'}, which is not in its folder; copy "
                    "it there"
                )
            sizes[name] = place.stat().st_size
        wanted = _nbytes(tensor)
        length = int(entry.get("length", wanted))
        if length != wanted or int(entry.get("offset", 0)) + length > sizes[name]:
            raise InputError(
                f"{path}: its tensor {tensor.name!r} of {wanted} bytes does not lie in {name} of {sizes[name]} bytes "
                "as it says; the file is cut short or of another model"
            )


def require_whole_tensors(proto: onnx.ModelProto) -> None:
    """Checks that the tensors of a model have as many bytes as their shapes say; onnx's checker does not.

    Raises:
        ValueError: one has more or less.
    """
    import onnx
    from onnx.external_data_helper import _get_all_tensors

    for tensor in _get_all_tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.HasField("raw_data"):
            wanted = _nbytes(tensor)
            if len(tensor.raw_data) != wanted or min(tensor.dims, default=0) < 0:
                raise ValueError(f"tensor {tensor.name!r} has {len(tensor.raw_data)} bytes, its shape needs {wanted}")


def require_text(proto: onnx.ModelProto) -> None:
    """Checks that texts are text: protobuf gives bytes that are not UTF-8 as they are, and later readers fail anywhere.

    Raises:
        ValueError: a text in the model is not.
    """
    if found := _not_text([proto]):
        raise ValueError(f"model{found}")


def _not_text(messages: Iterable[Any]) -> str:
    """Returns the first text in messages of one kind that is none, with where it is; empty if there is no such.

    Only fields that may hold a text are asked for: protobuf would copy the bytes of tensors.
    """
    fields = None
    for message in messages:
        fields = fields or _text_fields(message.DESCRIPTOR)
        for name in fields.texts:
            text = getattr(message, name)
            if isinstance(text, bytes):
                return f".{name} is not text: {text!r:.60}"
        for name in fields.lists:
            for text in getattr(message, name):
                if isinstance(text, bytes):
                    return f".{name} is not text: {text!r:.60}"
        for name in fields.messages:
            if message.HasField(name) and (found := _not_text((getattr(message, name),))):
                return f".{name}{found}"
        for name in fields.message_lists:
            if found := _not_text(getattr(message, name)):
                return f".{name}{found}"
    return ""


class _TextFields(NamedTuple):
    """Names of the fields of a kind of message: texts, lists of them, and what may hold some."""

    texts: list[str]
    lists: list[str]
    messages: list[str]
    message_lists: list[str]


@functools.cache
def _text_fields(descriptor: Any) -> _TextFields:
    """Returns the fields that may hold text of the messages that a descriptor describes."""
    found = _TextFields([], [], [], [])
    for field in descriptor.fields:
        is_list = field.default_value == []
        if field.type == field.TYPE_STRING:
            (found.lists if is_list else found.texts).append(field.name)
        elif field.type == field.TYPE_MESSAGE:
            (found.message_lists if is_list else found.messages).append(field.name)
    return found


def _nbytes(tensor: onnx.TensorProto) -> int:
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    bits = _PACKED_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 8 * dtype.itemsize)
    return int(-(-math.prod(tensor.dims) * bits // 8))


def write_large(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol], path: Path) -> Path | None:
    """Writes a skeleton with its tensors, whole or not at all, and returns the second file if there is one.

    Args:
        proto: What `to_skeleton` returned, with `<name of path>.data` as its location.
        tensors: The large tensors.
        path: The file to write; beyond `MOST_IN_A_FILE` the tensors lie beside it in `<path>.data`.
    """
    if sum(tensor.nbytes for tensor in tensors.values()) <= MOST_IN_A_FILE:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            _write_embedded(proto, tensors, stream)
        return None
    beside = data_path(path)
    with atomic_path(path) as temporary, atomic_path(beside) as data:
        with data.open("wb") as stream:
            for tensor in tensors.values():
                weights.write_tensor(tensor, stream)
                stream.write(bytes(-tensor.nbytes % weights.ALIGNMENT))
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return beside


def data_path(path: Path) -> Path:
    """Returns where the weights of an ONNX file lie that is too large for one."""
    return path.with_name(f"{path.name}.data")


def _write_embedded(proto: onnx.ModelProto, tensors: Mapping[str, ir.TensorProtocol], stream: IO[bytes]) -> None:
    import onnx

    rest, graph = onnx.ModelProto(), onnx.GraphProto()
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    graph.CopyFrom(proto.graph)
    heads = [tensor for tensor in proto.graph.initializer if tensor.name in tensors]
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in tensors]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    body = graph.SerializeToString(deterministic=True)
    messages = [_head_of(head, tensors[head.name]) for head in heads]
    lengths = [len(message) + tensors[head.name].nbytes for message, head in zip(messages, heads, strict=True)]
    total = len(body) + sum(len(_key(_INITIALIZER, length)) + length for length in lengths)
    stream.write(rest.SerializeToString(deterministic=True) + _key(_GRAPH, total) + body)
    for head, message, length in zip(heads, messages, lengths, strict=True):
        stream.write(_key(_INITIALIZER, length) + message)
        weights.write_tensor(tensors[head.name], stream)


def _head_of(head: onnx.TensorProto, tensor: ir.TensorProtocol) -> bytes:
    """Returns what precedes the bytes of a tensor in its message."""
    import onnx

    plain = onnx.TensorProto()
    plain.CopyFrom(head)
    plain.ClearField("external_data")
    plain.ClearField("data_location")
    head_bytes: bytes = plain.SerializeToString(deterministic=True)
    return head_bytes + _key(_RAW_DATA, tensor.nbytes)


def _key(number: int, length: int) -> bytes:
    """Returns the key and the length of a field of bytes."""
    found = bytearray()
    for each in (number << 3 | _BYTES, length):
        rest = each
        while rest > 0x7F:
            found.append(rest & 0x7F | 0x80)
            rest >>= 7
        found.append(rest)
    return bytes(found)
