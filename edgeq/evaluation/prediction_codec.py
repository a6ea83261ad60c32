"""A prediction as JSON: what a device says of an image, and what a journal keeps of it.

A task takes its predictions apart into named arrays (`edgeq.tasks.base.Task.to_arrays`); this packs any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeq.boundary import convert
from edgeq.errors import InputError
from edgeq.packing import PackedArray, pack_array, unpack_array
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
        raise InputError(f"a prediction that cannot be used for {task.name} ({str(error)[:120]})") from error


def _unpack(packed: PackedArray) -> np.ndarray:
    array = unpack_array(packed, _MAX_BYTES)
    if not np.isfinite(array).all():
        raise ValueError("a number that is not finite")
    return array
