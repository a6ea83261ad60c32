"""Weights of few bits in blocks, rounded so that the layer's output changes least.

A block has the scale that loses least of a few that cut off its largest weights, as AWQ clips (Lin et al., 2023). What
rounding loses at one input is made up for by the inputs that follow, as in GPTQ (Frantar et al., 2023). Both follow the
second moments of what the layer reads: an input that is always small may lose more, and inputs that go together take
over from each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.weight import QuantizedWeight
from edgeq.schemes import PerGroup, Scheme

Array = npt.NDArray[np.float32]

_SHRINKAGE = 0.2
"""How many rows the mean second moment counts as, for each input of a layer: 0.1 to 0.3 gave the best ViTs."""


_SHRINK = np.linspace(1.0, 0.6, 9, dtype=np.float32)
"""Of a block's range, before its largest weights are cut off."""


@dataclass(frozen=True)
class BlockGrid:
    """The numbers that weights are stored as.

    Attributes:
        scales: Largest weights of blocks `(N,)` -> scales to choose from, of those that a file can hold, `(F, N)`.
        nearest: Weights in steps of their scale -> the nearest numbers, of the same shape.
    """

    scales: Callable[[np.ndarray], np.ndarray]
    nearest: Callable[[np.ndarray], np.ndarray]


def drawn_to_mean(moments: np.ndarray, rows: int) -> npt.NDArray[np.float64]:
    """Returns second moments per row, `(K, K)`, that are drawn to a multiple of the identity as far as rows are few.

    A few rows say little of K inputs: without it those that were never seen could take any error ("A well-conditioned
    estimator for large-dimensional covariance matrices", Ledoit and Wolf, 2004).

    Args:
        moments: `X^T X`, `(K, K)`.
        rows: Rows of X, above 0.
    """
    width = len(moments)
    mean = np.trace(moments) / (rows * width)
    # Of inputs that were always zero all are alike.
    added = _SHRINKAGE * width / rows * mean if mean > 0 else 1.0
    found: npt.NDArray[np.float64] = moments / rows + added * np.eye(width)
    return found


@dataclass(frozen=True)
class FedForward:
    """Numbers of the weight's shape, float32, and the scales of their blocks.

    Attributes:
        numbers: In steps of their scales.
        scales: Of the weight's shape with the number of blocks in place of the number of inputs.
    """

    numbers: Array
    scales: Array


def feed_errors_forward(
    weight: np.ndarray, moments: npt.NDArray[np.float64], scheme: Scheme, grid: BlockGrid
) -> FedForward:
    """Returns the numbers and scales whose product loses little of the layer's output.

    Args:
        weight: Float weight, a matrix.
        moments: Second moments of the inputs, positive definite, `(K, K)`.
        scheme: In groups that divide the axis of the inputs.
        grid: The numbers.
    """
    granularity = scheme.granularity
    assert isinstance(granularity, PerGroup)  # noqa: S101 - what weights of few bits have
    # Row i holds what an error of input i asks of those behind it, once those before it are fixed.
    factors = np.linalg.cholesky(np.linalg.inv(moments)).T.astype(np.float32)
    left = np.moveaxis(weight, granularity.axis, 0).astype(np.float32)
    numbers, scales = np.empty_like(left), []
    for start in range(0, len(left), granularity.size):
        part, behind = slice(start, start + granularity.size), slice(start + granularity.size, None)
        tried = grid.scales(np.abs(left[part]).max(axis=0))
        found, errors = _round_block(left[part], tried, factors[part, part], grid)
        best = np.square(errors).sum(axis=1).argmin(axis=0)
        scales.append(np.take_along_axis(tried, best[None], axis=0)[0])
        numbers[part], kept = (np.take_along_axis(each, best[None, None], axis=0)[0] for each in (found, errors))
        left[behind] -= factors[part, behind].T @ kept
    back = granularity.axis
    return FedForward(np.moveaxis(numbers, 0, back), np.moveaxis(np.stack(scales), 0, back))


def feed_integers_forward(
    weight: np.ndarray,
    scheme: Scheme,
    moments: npt.NDArray[np.float64],
    storable: Callable[[np.ndarray], np.ndarray],
) -> QuantizedWeight:
    """Returns the weight in integers around zero with little lost of the layer's output.

    Args:
        weight: Float weight, a matrix.
        scheme: Signed integers in groups that divide the axis of the inputs.
        moments: Second moments of the inputs, positive definite, `(K, K)`.
        storable: Scales -> the next ones that a file can hold.
    """

    def scales(largest: np.ndarray) -> np.ndarray:
        fitting = np.where(largest > 0, largest / scheme.qmax, 1.0)
        return storable(np.multiply.outer(_SHRINK, fitting).astype(np.float32))

    def nearest(steps: np.ndarray) -> np.ndarray:
        numbers: np.ndarray = np.clip(np.rint(steps), scheme.qmin, scheme.qmax)
        return numbers

    fed = feed_errors_forward(weight, moments, scheme, BlockGrid(scales, nearest))
    zero = np.zeros(fed.scales.shape, scheme.dtype)
    return QuantizedWeight(fed.numbers.astype(scheme.dtype), fed.scales, zero, scheme)


def _round_block(weight: Array, scales: Array, factors: Array, grid: BlockGrid) -> tuple[Array, Array]:
    """Returns numbers and errors `(F, size, N)` of a block `(size, N)` on scales `(F, N)`.

    The square of an error is what it adds to the layer's squared output error.
    """
    left = np.repeat(weight[None], len(scales), axis=0)
    numbers, errors = np.empty_like(left), np.empty_like(left)
    for row in range(len(weight)):
        numbers[:, row] = grid.nearest(left[:, row] / scales)
        errors[:, row] = (left[:, row] - numbers[:, row] * scales) / factors[row, row]
        left[:, row + 1 :] -= factors[row, row + 1 :, None] * errors[:, None, row]
    return numbers, errors
