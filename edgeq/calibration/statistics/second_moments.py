"""X^T X of what a linear layer or a convolution reads: what GPTQ calls the Hessian, up to its factor of 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.boundary import convert
from edgeq.calibration.statistics.base import require_finite
from edgeq.errors import InputError
from edgeq.packing import PackedArray, pack_array, unpack_array

# Numbers of a block of rows, in float64: 32 MB.
_BLOCK = 1 << 22
_MAX_BYTES = 1 << 32


class SecondMoments:
    """The sum over all rows x of `x^T x`, where a layer computes `x W^T` row by row.

    The rows of a linear layer are the vectors along its input's last axis. Those of a convolution are the patches under
    its kernel, ordered as its weight `(out, C / groups, kH, kW)` is; each group of channels has a matrix.

    The products of two float32 are exact in float64, their sum is not. Over n rows each entry lies within
    `n u / (1 - n u) * sum |x_i x_j|` of the exact one, with `u = 2**-53` (Higham, Accuracy and Stability of Numerical
    Algorithms, 4.2), in whatever order and batches the images come; and so two orders differ by at most twice as much.
    For a hundred million rows this is 1e-8.

    Args:
        kernel: Height and width of a convolution's kernel; empty for a linear layer.
        strides: Of the convolution.
        pads: Of the convolution: top, left, bottom, right.
        dilations: Of the convolution.
        groups: Of the convolution.
    """

    def __init__(
        self,
        kernel: tuple[int, ...] = (),
        strides: tuple[int, ...] = (1, 1),
        pads: tuple[int, ...] = (0, 0, 0, 0),
        dilations: tuple[int, ...] = (1, 1),
        groups: int = 1,
    ) -> None:
        self._kernel, self._strides, self._pads = tuple(kernel), tuple(strides), tuple(pads)
        self._dilations, self._groups = tuple(dilations), groups
        self._sum: npt.NDArray[np.float64] | None = None
        self._rows = 0

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return self._rows

    @property
    def matrices(self) -> npt.NDArray[np.float64]:
        """X^T X of every group, float64, `(groups, K, K)`, with K weights for each output channel.

        Raises:
            InputError: nothing was gathered.
        """
        if self._sum is None:
            raise InputError("no values were gathered, so there are no second moments")
        return self._sum

    def update(self, array: np.ndarray) -> None:
        """Adds the rows of the layer's input: `(..., K)`, or `(N, C, H, W)` for a convolution."""
        if not array.size:
            return
        for blocks in self._blocks(array):
            with np.errstate(invalid="ignore", over="ignore"):
                added = np.stack([block.T @ block for block in blocks])
            if not np.isfinite(added).all():
                require_finite(array)
            self._add(added, len(blocks[0]))

    def merge(self, other: SecondMoments) -> None:
        """Adds another's sums."""
        if other._options() != self._options():
            raise InputError(f"second moments with {other._options()} cannot join those with {self._options()}")
        if other._sum is not None:
            self._add(other._sum, other._rows)

    def to_json(self) -> dict[str, Any]:
        """Returns options, number of rows and sums as JSON."""
        sums = None if self._sum is None else pack_array(self._sum, level=1)
        return {**self._options(), "rows": self._rows, "sum": sums}

    @classmethod
    def from_json(cls, document: Any) -> SecondMoments:
        """Returns the statistic that `to_json` wrote."""
        try:
            options = {key: tuple(document[key]) for key in ("kernel", "strides", "pads", "dilations")}
            numbers = [document["groups"], document["rows"], *(entry for each in options.values() for entry in each)]
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError("options and rows are whole numbers")
            statistic = cls(**options, groups=document["groups"])
            if document["sum"] is not None:
                packed = convert(document["sum"], PackedArray, source="second moments", kind="a packed array")
                sums = unpack_array(packed, _MAX_BYTES)
                if sums.ndim != 3 or sums.shape[1] != sums.shape[2] or sums.dtype != np.float64:
                    raise ValueError(f"a sum of shape {sums.shape}")
                statistic._add(sums, document["rows"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not second moments ({error!r})") from error
        return statistic

    def _options(self) -> dict[str, Any]:
        return {
            "kernel": list(self._kernel),
            "strides": list(self._strides),
            "pads": list(self._pads),
            "dilations": list(self._dilations),
            "groups": self._groups,
        }

    def _add(self, added: npt.NDArray[np.float64], rows: int) -> None:
        if self._sum is None:
            self._sum = added.copy()  # of a merged statistic, which goes on by itself
        elif self._sum.shape != added.shape:
            raise InputError(f"the tensor has {added.shape[-1]} values in a row, and had {self._sum.shape[-1]} before")
        else:
            self._sum += added
        self._rows += rows

    def _blocks(self, array: np.ndarray) -> Iterator[list[npt.NDArray[np.float64]]]:
        """Yields some rows of every group at a time, float64, each `(rows, K)`."""
        if not self._kernel:
            rows = array.reshape(-1, array.shape[-1])
            step = max(1, _BLOCK // rows.shape[1])
            for start in range(0, len(rows), step):
                yield [rows[start : start + step].astype(np.float64)]
            return
        for image in array:
            patches = self._patches(image)
            step = max(1, _BLOCK // (patches[0].size // patches.shape[1]))
            for top in range(0, patches.shape[1], step):
                yield [_rows(group) for group in np.split(patches[:, top : top + step], self._groups)]

    def _patches(self, image: np.ndarray) -> np.ndarray:
        """Returns a view `(C, H', W', kH, kW)` of an image `(C, H, W)`."""
        top, left, bottom, right = self._pads
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
        window = tuple((size - 1) * step + 1 for size, step in zip(self._kernel, self._dilations, strict=True))
        views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=(1, 2))
        (down, across), (dilated_down, dilated_across) = self._strides, self._dilations
        return views[:, ::down, ::across, ::dilated_down, ::dilated_across]


def _rows(patches: np.ndarray) -> npt.NDArray[np.float64]:
    """Returns `(H' W', C kH kW)` of patches `(C, H', W', kH, kW)`, in float64."""
    height, width = patches.shape[1:3]
    return patches.transpose(1, 2, 0, 3, 4).astype(np.float64).reshape(height * width, -1)
