"""A prediction as JSON: what a device says of an image, and what a journal keeps of it.

Arrays are base64 of zlib and state dtype and shape: they arrive bit for bit, and their size is known, and bounded,
before anything is unpacked.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.detection import Detections
from edgeq.errors import InputError

_DTYPES = ("float32", "int64")
_BARE = "array"
_MAX_AXES = 2
# A hundred times what a detector without a threshold finds in an image.
_MAX_BYTES = 64 << 20


def pack_prediction(prediction: Any) -> dict[str, Any]:
    """Returns detections or an array as JSON values: name -> [dtype, shape, data]."""
    arrays = vars(prediction) if dataclasses.is_dataclass(prediction) else {_BARE: prediction}
    return {name: _pack(array) for name, array in arrays.items()}


def unpack_prediction(packed: Any) -> Detections | np.ndarray:
    """Returns what `pack_prediction` packed.

    Raises:
        InputError: it is something else, damaged, not finite, or too large.
    """
    try:
        arrays = {name: _unpack(*entry) for name, entry in packed.items()}
        if arrays.keys() == {_BARE}:
            return arrays[_BARE]
        found = Detections(**arrays)
        _require_detections(found)
        return found
    except (TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
        raise InputError(f"a prediction that cannot be used ({str(error)[:80]})") from error


def _pack(array: np.ndarray) -> list[Any]:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(zlib.compress(little.tobytes(), 1)).decode("ascii")
    return [array.dtype.name, list(array.shape), data]


def _unpack(dtype: str, shape: list[int], data: str) -> np.ndarray:
    if dtype not in _DTYPES or len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array {dtype!r} {shape!r}")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _MAX_BYTES:
        raise ValueError(f"an array of {size} bytes")
    found = zlib.decompressobj().decompress(base64.b64decode(data, validate=True), size + 1)
    if len(found) != size:
        raise ValueError("an array of another size than it states")
    array = np.frombuffer(found, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
    if not np.isfinite(array).all():
        raise ValueError("a number that is not finite")
    return array


def _require_detections(found: Detections) -> None:
    wanted: Mapping[str, tuple[str, tuple[int, ...]]] = {
        "boxes": ("float32", (len(found.scores), 4)),
        "scores": ("float32", (len(found.scores),)),
        "classes": ("int64", (len(found.scores),)),
    }
    for name, (dtype, shape) in wanted.items():
        array = getattr(found, name)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} {array.dtype} {array.shape}")
