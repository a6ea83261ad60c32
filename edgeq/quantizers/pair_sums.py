"""Kernels that add two products in 16 bits, and weights that suit them.

x86 CPUs without VNNI multiply unsigned activations by signed weights with `vpmaddubsw` (Intel's manual, volume 2): two
neighbouring products become one sum, which is cut off at -32768 and 32767. The activations are the raw integers from 0
to 255: their zero point is subtracted from the total afterwards, and does not help.

A pair cannot saturate where its weights, each times the largest raw integer that its input takes, stay within 16 bits.
Where they do not, the scale of the weight is enlarged just until they do, and the float weight is rounded anew: .2 to
.3 bits of the channels concerned, while weights of 7 bits would take a bit of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.weight import QuantizedWeight

LEAST, MOST = -(2**15), 2**15 - 1
"""What a sum of two products is cut off at."""

_BLOCK = 1 << 22
"""Products that are looked at at a time."""

_STEP = 1 + 2.0**-9
"""Least enlargement of a scale, where rounding has kept a pair just above the limit."""


@dataclass(frozen=True, eq=False)
class PairedWeight:
    """A weight as kernels read it: one row of products per output channel, and which of them are added in 16 bits.

    Attributes:
        rows: For each output channel, where its factors lie in the flat weight, `(channels, products)`.
        inputs: For each output channel, which input channel each product reads, of the same shape.
        pairings: Ways in which engines form pairs: positions in a row, `(pairs, 2)` each.
    """

    rows: npt.NDArray[np.intp]
    inputs: npt.NDArray[np.intp]
    pairings: tuple[npt.NDArray[np.intp], ...]

    def excess(self, integers: np.ndarray, maxima: np.ndarray) -> npt.NDArray[np.float64]:
        """Returns how many times the worst pair of each output channel is beyond 16 bits, `(channels,)`; 1 is the end.

        Args:
            integers: The weight.
            maxima: Largest raw integer of each input channel, 0 to 255.
        """
        flat, tops = integers.reshape(-1), maxima.astype(np.int32)
        worst = np.zeros(len(self.rows))
        step = max(1, _BLOCK // self.rows.shape[1])
        for start in range(0, len(worst), step):
            part = slice(start, start + step)
            products = flat[self.rows[part]].astype(np.int32) * tops[self.inputs[part]]
            above, below = np.maximum(products, 0), np.minimum(products, 0)
            for first, second in (pairing.T for pairing in self.pairings):
                most = (above[:, first] + above[:, second]).max(axis=1)
                least = (below[:, first] + below[:, second]).min(axis=1)
                worst[part] = np.maximum(worst[part], np.maximum(most / MOST, least / LEAST))
        return worst


def flat_pairs(products: int) -> npt.NDArray[np.intp]:
    """Returns the pairs of neighbours of a whole row, `(pairs, 2)`; an odd last product is alone, and in none."""
    return np.arange(products // 2 * 2).reshape(-1, 2)


def tap_pairs(taps: int, inputs: int) -> npt.NDArray[np.intp]:
    """Returns the pairs of neighbouring channels within each tap of a kernel, `(pairs, 2)`, channels innermost."""
    within = flat_pairs(inputs)
    return np.concatenate([within + tap * inputs for tap in range(taps)])


def fitted(quantized: QuantizedWeight, weight: np.ndarray, paired: PairedWeight, maxima: np.ndarray) -> QuantizedWeight:
    """Returns the weight with scales that are just large enough for no pair to saturate.

    Args:
        quantized: The weight as a method has quantized it, around zero.
        weight: The float weight.
        paired: How kernels read it.
        maxima: Largest raw integer of each input channel, 0 to 255.
    """
    owners = _owners(quantized)[paired.rows[:, 0]]
    while True:
        excess = np.zeros(quantized.scale.size)
        np.maximum.at(excess, owners, paired.excess(quantized.integers, maxima))
        if (excess <= 1).all():
            return quantized
        factors = np.where(excess > 1, np.maximum(excess, _STEP), 1).reshape(quantized.scale.shape)
        quantized = quantized.rescaled(weight, (quantized.scale * factors).astype(np.float32))


def lost_bits(before: QuantizedWeight, after: QuantizedWeight) -> Sequence[float]:
    """Returns how many bits the scales that were enlarged have cost, each above 0."""
    bits = np.log2(after.scale.astype(np.float64) / before.scale).reshape(-1)
    return [float(each) for each in bits[bits > 0]]


def _owners(quantized: QuantizedWeight) -> npt.NDArray[np.intp]:
    """Returns for each number of the flat weight which of its scales it has."""
    scales = np.arange(quantized.scale.size)
    shape = [1] * quantized.integers.ndim
    if quantized.axis is not None and quantized.scale.size > 1:
        shape[quantized.axis] = -1
        scales = scales.reshape(shape)
    return np.broadcast_to(scales, quantized.integers.shape).reshape(-1)
