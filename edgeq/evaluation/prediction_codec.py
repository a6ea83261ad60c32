"""A prediction as JSON, for what a device says of an image and what a journal keeps of it; and as bytes, for a store.

A task takes its predictions apart into named arrays (`edgeq.tasks.base.Task.to_arrays`); this packs any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.boundary import convert
from edgeq.errors import InputError
from edgeq.packing import PackedArray, arrays_from_bytes, arrays_to_bytes, pack_array, unpack_array
from edgeq.tasks import Task

# A hundred times what a detector without a threshold finds in an image.
_MAX_BYTES = 64 << 20
# A device has better to do than to search for the smallest line.
_LEVEL = 1


def pack_prediction(task: type[Task[Any]], prediction: Any) -> dict[str, Any]:
    """Returns a prediction of a task as JSON values: name -> packed array."""
    return {name: pack_array(array, _LEVEL) for name, array in task.to_arrays(prediction).items()}


def unpack_prediction(task: type[Task[Any]], packed: Any) -> Any:
    """Returns what `pack_prediction` packed.

    Raises:
        InputError: it is something else, of another task, damaged, not finite, or too large.
    """
    try:
        stated = convert(packed, dict[str, PackedArray], source="a prediction", kind="packed arrays")
        return task.from_arrays({name: _unpack(entry) for name, entry in stated.items()})
    except (InputError, TypeError, ValueError) as error:
        raise _unusable(task, error) from error


def encode_prediction(task: type[Task[Any]], prediction: Any) -> bytes:
    """Returns a prediction of a task as bytes; equal predictions are equal bytes."""
    return arrays_to_bytes(task.to_arrays(prediction))


def decode_prediction(task: type[Task[Any]], content: bytes) -> Any:
    """Returns what `encode_prediction` encoded.

    Raises:
        InputError: it is something else, of another task, damaged, not finite, or too large.
    """
    try:
        arrays = arrays_from_bytes(content, _MAX_BYTES)
        return task.from_arrays({name: _finite(array) for name, array in arrays.items()})
    except (TypeError, ValueError) as error:
        raise _unusable(task, error) from error


def _unpack(packed: PackedArray) -> np.ndarray:
    return _finite(unpack_array(packed, _MAX_BYTES))


def _finite(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError("a number that is not finite")
    return array


def _unusable(task: type[Task[Any]], error: Exception) -> InputError:
    return InputError(f"a prediction that cannot be used for {task.name} ({str(error)[:120]})")
