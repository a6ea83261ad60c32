"""Arrays as JSON values or as bytes, bit for bit.

Compressed by zlib, in JSON as base64; bytes of equal significance lie side by side, because they are alike. Each array
states its dtype and shape, so that its size is known, and bounded, before anything is unpacked. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from edgeq.boundary import Count

_PLAIN, _COMPRESSED = b"\x00", b"\x01"
_WORTH = 64
"""Bytes from which compressing is tried."""

Dtype = Literal["uint8", "int32", "int64", "float32", "float64"]


class PackedArray(msgspec.Struct):
    """An array as JSON has it.

    Attributes:
        dtype: numpy's name of its type.
        shape: Its shape.
        data: Its bytes, compressed, in base64.
    """

    dtype: Dtype
    shape: tuple[Count, ...]
    data: str


def pack_array(array: np.ndarray, level: int = 9) -> dict[str, Any]:
    """Returns an array of one of five dtypes as a JSON object with `dtype`, `shape` and `data`.

    Args:
        array: Of uint8, int32, int64, float32 or float64.
        level: zlib's, 1 (fast) to 9 (small).
    """
    data = base64.b64encode(zlib.compress(_to_planes(array), level)).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def unpack_array(packed: PackedArray, max_bytes: int) -> np.ndarray:
    """Returns what `pack_array` packed.

    Args:
        packed: The JSON object.
        max_bytes: The largest array that is unpacked.

    Raises:
        ValueError: it is damaged, or larger.
    """
    dtype = np.dtype(packed.dtype)
    size = math.prod(packed.shape) * dtype.itemsize
    if size > max_bytes:
        raise ValueError(f"an array of {size} bytes, at most {max_bytes} are read")
    try:
        found = zlib.decompressobj().decompress(base64.b64decode(packed.data, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"no packed array ({str(error)[:80]})") from error
    if len(found) != size:
        raise ValueError("an array that does not have the size that it states")
    return _from_planes(found, dtype, packed.shape)


def arrays_to_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns named arrays of the dtypes of `PackedArray` as bytes, compressed if that makes them smaller."""
    stated = [(name, array.dtype.name, array.shape, _to_planes(array)) for name, array in arrays.items()]
    plain = msgspec.msgpack.encode(stated)
    compressed = zlib.compress(plain, 1) if len(plain) >= _WORTH else plain
    return _COMPRESSED + compressed if len(compressed) < len(plain) else _PLAIN + plain


def arrays_from_bytes(content: bytes, max_bytes: int) -> dict[str, np.ndarray]:
    """Returns what `arrays_to_bytes` packed.

    Args:
        content: The bytes.
        max_bytes: The most that is unpacked.

    Raises:
        ValueError: they are damaged, or more.
    """
    form, plain = content[:1], content[1:]
    try:
        if form == _COMPRESSED:
            unpacker = zlib.decompressobj()
            plain = unpacker.decompress(plain, max_bytes + 1)
            if len(plain) <= max_bytes and not unpacker.eof:
                raise ValueError("a part is missing")
        elif form != _PLAIN:
            raise ValueError(f"a form {form!r}")
        if len(plain) > max_bytes:
            raise ValueError(f"arrays of more than {max_bytes} bytes")
        stated = msgspec.msgpack.decode(plain, type=list[tuple[str, Dtype, tuple[Count, ...], bytes]])
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"no packed arrays ({str(error)[:80]})") from error
    found = {}
    for name, dtype, shape, planes in stated:
        if len(planes) != math.prod(shape) * np.dtype(dtype).itemsize:
            raise ValueError("an array that does not have the size that it states")
        found[name] = _from_planes(planes, np.dtype(dtype), shape)
    return found


def _to_planes(array: np.ndarray) -> bytes:
    """Returns the bytes of an array, those of equal significance side by side, the least significant first."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return little.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _from_planes(planes: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    columns = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, -1)
    little = np.ascontiguousarray(columns.T).view(dtype.newbyteorder("<"))
    array: np.ndarray = little.reshape(shape).astype(dtype, copy=False)
    return array
