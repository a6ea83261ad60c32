"""Arrays as JSON values, bit for bit.

Base64 of zlib; bytes of equal significance lie side by side, because they are alike. Each array states its dtype and
shape, so that its size is known, and bounded, before anything is unpacked. Nothing is unpickled.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Any

import numpy as np

_DTYPES = ("uint8", "int32", "int64", "float32", "float64")


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


def unpack_array(packed: Any, max_bytes: int) -> np.ndarray:
    """Returns what `pack_array` packed.

    Args:
        packed: The JSON object.
        max_bytes: The largest array that is unpacked.

    Raises:
        ValueError: it is something else, damaged, or larger.
    """
    try:
        dtype, shape, data = packed["dtype"], packed["shape"], packed["data"]
        if dtype not in _DTYPES or not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError(f"an array of {dtype!r} {shape!r}")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > max_bytes:
            raise ValueError(f"an array of {size} bytes, at most {max_bytes} are read")
        found = zlib.decompressobj().decompress(base64.b64decode(data, validate=True), size + 1)
    except (KeyError, TypeError, binascii.Error, zlib.error) as error:
        raise ValueError(f"no packed array ({str(error)[:80]})") from error
    if len(found) != size:
        raise ValueError("an array that does not have the size that it states")
    planes = np.frombuffer(found, np.uint8).reshape(np.dtype(dtype).itemsize, -1)
    little = np.ascontiguousarray(planes.T).view(np.dtype(dtype).newbyteorder("<"))
    array: np.ndarray = little.reshape(shape).astype(dtype, copy=False)
    return array
