"""Heads with an output of their own for each quantity and stride, as face detectors have: YuNet, SCRFD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.inputs.preprocessing import Placement
from edgeq.tasks.detection.decoders.candidates import FloatArray, cell_counts
from edgeq.tasks.detection.decoders.roles import describe, pick_outputs


def stride_roles(kinds: Sequence[str], strides: Sequence[float]) -> dict[str, str]:
    """Returns the roles `kind_stride`, which are the outputs' names as well where a preset names none."""
    return {f"{kind}_{stride:g}": f"{kind}_{stride:g}" for kind in kinds for stride in strides}


def join_strides(
    outputs: Mapping[str, np.ndarray],
    post: Postprocessing,
    placement: Placement,
    kinds: Mapping[str, int],
    strides: Sequence[float],
    per_cell: int,
) -> list[FloatArray]:
    """Returns for each kind an array `(N, columns)` of all strides, one after the other.

    Args:
        outputs: Output name -> array, each with `cells * per_cell` rows; a batch axis of length 1 does not matter.
        post: Names the output of each role.
        placement: Says how many cells there are.
        kinds: Name of a quantity -> how many columns it has.
        strides: Pixels from cell to cell.
        per_cell: Boxes of a cell.

    Raises:
        ModelError: an output is missing or has another shape.
        InputError: `post` names a role that there is not.
    """
    arrays = pick_outputs(outputs, post, stride_roles(list(kinds), strides))
    counts = [count * per_cell for count in cell_counts(placement, strides)]
    joined = []
    for kind, columns in kinds.items():
        parts = [arrays[f"{kind}_{stride:g}"] for stride in strides]
        if any(part.size != count * columns for part, count in zip(parts, counts, strict=True)):
            raise ModelError(
                f"decoder {post.decoder}: wanted {' + '.join(map(str, counts))} rows of {columns} for {kind} and an "
                f"input of {placement.input_width_px}x{placement.input_height_px}; found {describe(arrays)}"
            )
        joined.append(np.concatenate([part.reshape(-1, columns) for part in parts]))
    return joined
