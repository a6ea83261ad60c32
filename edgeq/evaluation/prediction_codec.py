"""A prediction as JSON: what a device says of an image, and what a journal keeps of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.boundary import convert
from edgeq.errors import InputError
from edgeq.packing import PackedArray, pack_array, unpack_array
from edgeq.tasks.detection import Detections

_BARE = "array"
_MAX_AXES = 2
# A hundred times what a detector without a threshold finds in an image.
_MAX_BYTES = 64 << 20
# A device has better to do than to search for the smallest line.
_LEVEL = 1


def pack_prediction(prediction: Any) -> dict[str, Any]:
    """Returns detections or an array as JSON values: name -> packed array."""
    arrays = vars(prediction) if dataclasses.is_dataclass(prediction) else {_BARE: prediction}
    return {name: pack_array(array, _LEVEL) for name, array in arrays.items()}


def unpack_prediction(packed: Any) -> Detections | np.ndarray:
    """Returns what `pack_prediction` packed.

    Raises:
        InputError: it is something else, damaged, not finite, or too large.
    """
    try:
        stated = convert(packed, dict[str, PackedArray], source="a prediction", kind="packed arrays")
        arrays = {name: _unpack(entry) for name, entry in stated.items()}
        if arrays.keys() == {_BARE}:
            return arrays[_BARE]
        found = Detections(**arrays)
        _require_detections(found)
        return found
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"a prediction that cannot be used ({str(error)[:120]})") from error


def _unpack(packed: PackedArray) -> np.ndarray:
    array = unpack_array(packed, _MAX_BYTES)
    if array.ndim > _MAX_AXES:
        raise ValueError(f"an array of shape {array.shape}")
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
