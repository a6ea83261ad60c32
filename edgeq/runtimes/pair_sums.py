"""A layer of 8-bit integers as x86 CPUs without VNNI compute it, bit by bit: exact sums, less what pairs lose.

Sums of products of integers below 2**24 are exact in float32, and so are those of blocks of 512 of them in any order:
BLAS computes them. What a pair beyond 16 bits loses is computed for the few pairs that can get there, with the largest
integer that each input channel has in this very input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.pair_sums import LEAST, MOST
from edgeq.runtimes.columns import Restore, columns_of

if TYPE_CHECKING:
    from edgeq.exporting.saturation.integer_layers import IntegerLayer

_BLOCK = 512
"""Products of at most 255 * 128 whose sum stays below 2**24."""


@dataclass(frozen=True, eq=False)
class LayerSums:
    """The sums of a layer.

    Attributes:
        totals: What the engine adds up, without the zero point's part, `(channels, positions)`.
        lost: How much more exact sums are, of the same shape.
        restore: Brings such an array into the shape of the layer's output.
    """

    totals: npt.NDArray[np.int64]
    lost: npt.NDArray[np.int64]
    restore: Restore


def add_up(layer: IntegerLayer, raw: npt.NDArray[np.int16], zero: int) -> LayerSums:
    """Returns the sums of a layer for raw integers.

    Args:
        layer: The layer.
        raw: Its input in the layer's own shape, 0 to 255.
        zero: The raw integer that stands for 0.
    """
    columns, restore = columns_of(layer.node, raw, layer.weight.shape, zero)
    rows = layer.weight.reshape(-1)[layer.paired.rows].astype(np.int32)  # (channels, products)
    per_group = len(rows) // len(columns)
    totals = np.empty((len(rows), columns.shape[2]), np.int64)
    lost = np.zeros(totals.shape, np.int64)
    for group, column in enumerate(columns):
        part = slice(group * per_group, (group + 1) * per_group)
        losses = lost[part]
        for channels, found in _lost(rows[part], column, layer.paired.pairings[0]):
            losses[channels] += found
        exact = _exact(rows[part], column) - zero * rows[part].sum(axis=1, dtype=np.int64)[:, None]
        totals[part] = exact - losses
    return LayerSums(totals, lost, restore)


def _exact(rows: npt.NDArray[np.int32], column: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    total = np.zeros((len(rows), column.shape[1]), np.int64)
    for start in range(0, rows.shape[1], _BLOCK):
        part = slice(start, start + _BLOCK)
        total += (rows[:, part].astype(np.float32) @ column[part].astype(np.float32)).astype(np.int64)
    return total


def _lost(
    rows: npt.NDArray[np.int32], column: npt.NDArray[np.int16], pairing: npt.NDArray[np.intp]
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.int32]]]:
    """Yields for each pair that is cut off anywhere the channels concerned and what they lose, `(channels, sums)`."""
    first, second = pairing.T
    tops = column.max(axis=1).astype(np.int32)
    products = rows * tops
    above, below = np.maximum(products, 0), np.minimum(products, 0)
    beyond = (above[:, first] + above[:, second] > MOST) | (below[:, first] + below[:, second] < LEAST)
    for pair in np.flatnonzero(beyond.any(axis=0)):
        channels = np.flatnonzero(beyond[:, pair])
        left, right = first[pair], second[pair]
        whole = rows[channels, left, None] * column[left].astype(np.int32)
        whole += rows[channels, right, None] * column[right].astype(np.int32)
        lost = whole - np.clip(whole, LEAST, MOST)
        if lost.any():
            yield channels, lost
