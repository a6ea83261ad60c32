"""Arrays as JSON values, bit for bit.

Base64 of zlib; bytes of equal significance lie side by side, because they are alike. Each array states its dtype and
shape, so that its size is known, and bounded, before anything is unpacked. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any, Literal

import msgspec
import numpy as np

from edgeq.boundary import Count


class PackedArray(msgspec.Struct):
    """An array as JSON has it.

    Attributes:
        dtype: numpy's name of its type.
        shape: Its shape.
        data: Its bytes, compressed, in base64.
    """

    dtype: Literal["uint8", "int32", "int64", "float32", "float64"]
    shape: tuple[Count, ...]
    data: str


def pack_array(array: np.ndarray, level: int = 9) -> dict[str, Any]:
    """Returns an array of one of five dtypes as a JSON object with `dtype`, `shape` and `data`.

    Args:
        array: Of uint8, int32, int64, float32 or float64.
        level: zlib's, 1 (fast) to 9 (small).
    """
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), level)).decode("ascii")
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
    planes = np.frombuffer(found, np.uint8).reshape(dtype.itemsize, -1)
    little = np.ascontiguousarray(planes.T).view(dtype.newbyteorder("<"))
    array: np.ndarray = little.reshape(packed.shape).astype(dtype, copy=False)
    return array
