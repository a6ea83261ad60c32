"""GPTQ: weights of few bits, rounded so that the layer's output changes least.

What rounding loses at one input is made up for by the inputs that follow (Frantar et al., 2023, in the form with the
Cholesky factor of the inverse), and a small group has the scale that loses least of a few that cut off its largest
weights, as AWQ clips (Lin et al., 2023). Both follow the second moments of what the layer reads: an input that is
always small may lose more, and inputs that go together take over from each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeq.quantizers.codebooks import codebook, nearest_index
from edgeq.quantizers.round_nearest import grid_parameters
from edgeq.quantizers.weight import QuantizedWeight
from edgeq.schemes import PerAxis, PerGroup, Scheme

Array = npt.NDArray[np.float32]

_SHRINKAGE = 0.2
"""How many rows the mean second moment counts as, for each input of a layer: 0.1 to 0.3 gave the best ViTs."""

_SHRINK = np.linspace(1.0, 0.6, 9, dtype=np.float32)
"""Of a group's range, before its largest weights are cut off."""

_BLOCK = 64
"""Inputs whose errors reach those behind them in one product, where scales are set beforehand."""

_COLUMNS = 256
"""Columns of a matrix that are factored together."""


@dataclass(frozen=True)
class BlockGrid:
    """The numbers that weights are stored as: `real = (number - zero) * scale`.

    Attributes:
        parameters: Weights of a group `(size, N)` -> scales and zeros to choose from, of those that a file can hold,
            each `(F, N)`.
        nearest: Weights in steps of their scale, counted from zero -> the nearest numbers, of the same shape.
    """

    parameters: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
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
    mean = np.trace(moments, dtype=np.float64) / (rows * width)
    # Of inputs that were always zero all are alike.
    added = _SHRINKAGE * width / rows * mean if mean > 0 else 1.0
    found: npt.NDArray[np.float64] = np.divide(moments, rows, dtype=np.float64)
    found[np.diag_indices(width)] += added  # in place: the matrix of a large layer is half a gigabyte
    return found


@dataclass(frozen=True)
class FedForward:
    """Numbers of the weight's shape, float32, and the scales and zeros of their groups.

    Attributes:
        numbers: In steps of their scales.
        scales: Of the weight's shape with the number of groups in place of the number of inputs.
        zeros: Of the same shape.
    """

    numbers: Array
    scales: Array
    zeros: Array


def feed_errors_forward(
    weight: np.ndarray, moments: npt.NDArray[np.float64], scheme: Scheme, grid: BlockGrid, damping: float = 0.0
) -> FedForward:
    """Returns the numbers, scales and zeros whose product loses little of the layer's output.

    Args:
        weight: Float weight, a matrix.
        moments: Second moments of the inputs, positive definite with the damping, `(K, K)`.
        scheme: In groups along the axis of the inputs.
        grid: The numbers.
        damping: What is added to each second moment.
    """
    granularity = scheme.granularity
    assert isinstance(granularity, PerGroup)  # noqa: S101 - callers see to it
    factors = _factors(moments, np.arange(len(moments)), damping)
    left = np.moveaxis(weight, granularity.axis, 0).astype(np.float32)
    numbers = np.empty_like(left)
    chosen_scales, chosen_zeros = list[np.ndarray](), list[np.ndarray]()
    for start in range(0, len(left), granularity.size):
        part = slice(start, start + granularity.size)
        scales, zeros = grid.parameters(left[part])
        found, errors = _round_block(left[part], scales[:, None], zeros[:, None], factors[part, part], grid.nearest)
        best = np.square(errors).sum(axis=1).argmin(axis=0)
        chosen_scales.append(np.take_along_axis(scales, best[None], axis=0)[0])
        chosen_zeros.append(np.take_along_axis(zeros, best[None], axis=0)[0])
        numbers[part], kept = (np.take_along_axis(each, best[None, None], axis=0)[0] for each in (found, errors))
        left[part.stop :] -= factors[part, part.stop :].T @ kept
    back = granularity.axis
    parts = (numbers, np.stack(chosen_scales), np.stack(chosen_zeros))
    return FedForward(*(np.moveaxis(each, 0, back) for each in parts))


def feed_integers_forward(
    weight: np.ndarray,
    scheme: Scheme,
    moments: npt.NDArray[np.float64],
    storable: Callable[[np.ndarray], np.ndarray],
    damping: float = 0.0,
) -> QuantizedWeight:
    """Returns the weight in integers with little lost of the layer's output.

    Scales are chosen group by group, when all inputs before are rounded.

    Args:
        weight: Float weight, a matrix.
        scheme: Integers or indices of a codebook, in groups along the inputs.
        moments: Second moments of the inputs, positive definite with the damping, `(K, K)`.
        storable: Scales -> the next ones that a file can hold.
        damping: What is added to each second moment.
    """

    def parameters(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale, zero = grid_parameters(block, scheme.along(PerAxis(1)))
        tried = storable(np.multiply.outer(_SHRINK, scale).astype(np.float32))
        return tried, np.broadcast_to(zero.astype(np.float32), tried.shape)

    fed = feed_errors_forward(weight, moments, scheme, BlockGrid(parameters, nearest_numbers(scheme)), damping)
    return as_integers(fed.numbers, fed.scales, fed.zeros, scheme)


@dataclass(frozen=True)
class RoundingOrder:
    """In which order inputs are rounded, and what an error of each asks of those behind it.

    Attributes:
        inputs: Their numbers, `(K,)`.
        factors: `(K, K)`, in this order.
    """

    inputs: npt.NDArray[np.intp]
    factors: Array

    @classmethod
    def of(cls, moments: npt.NDArray[np.float64], *, act_order: bool, damping: float = 0.0) -> RoundingOrder:
        """Returns the order of a layer's inputs.

        Args:
            moments: Second moments of the inputs, positive definite with the damping, `(K, K)`.
            damping: What is added to each second moment.
            act_order: Whether the inputs of largest moments come first, while all others can take over their errors.
        """
        order = np.argsort(-moments.diagonal(), kind="stable") if act_order else np.arange(len(moments))
        return cls(order, _factors(moments, order, damping))


def feed_on_set_scales(
    weight: np.ndarray,
    order: RoundingOrder,
    scales: np.ndarray,
    zeros: np.ndarray,
    nearest: Callable[[np.ndarray], np.ndarray],
) -> tuple[Array, Array]:
    """Returns the numbers `(K, N)` of a weight whose scales were set beforehand, and what each output loses `(N,)`.

    Args:
        weight: Float weight, inputs first, `(K, N)`.
        order: Of its inputs.
        scales: Of every weight, `(K, N)`.
        zeros: Of every weight, `(K, N)`.
        nearest: Weights in steps of their scale, counted from zero -> the nearest numbers.
    """
    left, scales, zeros = (each[order.inputs].astype(np.float32) for each in (weight, scales, zeros))
    numbers, lost = np.empty_like(left), np.zeros(left.shape[1], np.float32)
    for start in range(0, len(left), _BLOCK):
        part = slice(start, start + _BLOCK)
        within, beyond = order.factors[part, part], order.factors[part, part.stop :]
        found, errors = _round_block(left[part], scales[None, part], zeros[None, part], within, nearest)
        left[part.stop :] -= beyond.T @ errors[0]
        numbers[order.inputs[part]] = found[0]
        lost += np.square(errors[0]).sum(axis=0)
    return numbers, lost


def nearest_numbers(scheme: Scheme) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from weights, in steps of their scale and counted from zero, to the nearest numbers."""

    def nearest(steps: np.ndarray) -> np.ndarray:
        if scheme.codebook is not None:
            return codebook(scheme.codebook)[nearest_index(steps, scheme.codebook)]
        numbers: np.ndarray = np.clip(np.rint(steps), scheme.qmin, scheme.qmax)
        return numbers

    return nearest


def as_integers(numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray, scheme: Scheme) -> QuantizedWeight:
    """Returns the weight whose numbers, in steps of its scales, are given."""
    integers = nearest_index(numbers, scheme.codebook) if scheme.codebook is not None else numbers
    zero_type = np.float32 if scheme.real_zero else scheme.dtype
    return QuantizedWeight(integers.astype(scheme.dtype), scale, zero.astype(zero_type), scheme)


def _factors(moments: npt.NDArray[np.float64], order: npt.NDArray[np.intp], damping: float) -> Array:
    """Returns `(K, K)`: row i holds what an error of input i asks of those behind it, with those before it fixed.

    That is the upper Cholesky factor of the inverse. With L the lower one of the moments, inputs reversed, it is the
    inverse of L, reversed again: the moments are copied once, and the copy becomes the result. The matrix of a large
    layer is half a gigabyte.
    """
    reverse = order[::-1]
    matrix = moments[np.ix_(reverse, reverse)].astype(np.float64, copy=False)
    matrix[np.diag_indices(len(matrix))] += damping
    _cholesky(matrix)
    _invert_lower(matrix)
    return np.ascontiguousarray(matrix[::-1, ::-1], np.float32)


def _cholesky(matrix: npt.NDArray[np.float64]) -> None:
    """Replaces a positive definite matrix by its lower Cholesky factor, some columns at a time.

    Raises:
        numpy.linalg.LinAlgError: it is not positive definite.
    """
    for start in range(0, len(matrix), _COLUMNS):
        part, below = slice(start, start + _COLUMNS), slice(start + _COLUMNS, None)
        matrix[start:, part] -= matrix[start:, :start] @ matrix[part, :start].T
        matrix[part, part] = np.linalg.cholesky(matrix[part, part])
        matrix[below, part] = matrix[below, part] @ np.linalg.inv(matrix[part, part]).T
        matrix[part, below] = 0


def _invert_lower(matrix: npt.NDArray[np.float64]) -> None:
    """Replaces a lower triangular matrix by its inverse, some columns at a time from the last ones on."""
    for start in reversed(range(0, len(matrix), _COLUMNS)):
        part, below = slice(start, start + _COLUMNS), slice(start + _COLUMNS, None)
        matrix[part, part] = np.tril(np.linalg.inv(matrix[part, part]))
        matrix[below, part] = -matrix[below, below] @ (matrix[below, part] @ matrix[part, part])


def _round_block(
    weight: Array, scales: Array, zeros: Array, factors: Array, nearest: Callable[[np.ndarray], np.ndarray]
) -> tuple[Array, Array]:
    """Returns numbers and errors `(F, size, N)` of a block `(size, N)` on scales and zeros `(F, 1 or size, N)`.

    The square of an error is what it adds to the layer's squared output error.
    """
    shape = (len(scales), *weight.shape)
    left = np.repeat(weight[None], len(scales), axis=0)
    scales, zeros = np.broadcast_to(scales, shape), np.broadcast_to(zeros, shape)
    numbers, errors = np.empty_like(left), np.empty_like(left)
    for row in range(len(weight)):
        numbers[:, row] = nearest(left[:, row] / scales[:, row] + zeros[:, row])
        errors[:, row] = (left[:, row] - (numbers[:, row] - zeros[:, row]) * scales[:, row]) / factors[row, row]
        left[:, row + 1 :] -= factors[row, row + 1 :, None] * errors[:, None, row]
    return numbers, errors
