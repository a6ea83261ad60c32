"""`TensorSpec`: an input or output of a model file, and how real numbers become what it holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgeq.boundary import Count, Integer

Layout = Literal["NCHW", "NHWC"]

# Booleans, integers and floats; no text and no Python objects.
_NUMBER_KINDS = "biuf"
# Larger tensors than the engines take.
_MAX_TENSOR_BYTES = 1 << 32


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model as its file holds it.

    Attributes:
        name: Its name in the file.
        dtype: numpy's name of its type.
        shape: Its shape in the file; `None` is a free dimension.
        layout: Where a 4-D tensor has its channels: `NCHW` or `NHWC`.
        scale: Step of an integer tensor that stands for real numbers: `real = (integer - zero_point) * scale`.
        zero_point: The integer that stands for 0.0.

    Raises:
        ValueError: `dtype` is not a numeric type, `scale` is 0 or not finite, or the shape is larger than 4 GiB.
    """

    name: str
    dtype: str
    shape: tuple[Count | None, ...]
    layout: Layout = "NCHW"
    scale: float | None = None
    zero_point: Integer = 0

    def __post_init__(self) -> None:
        try:
            dtype = np.dtype(self.dtype)
        except (TypeError, ValueError):
            raise ValueError(f"dtype {self.dtype!r} is not a numpy type") from None
        if dtype.kind not in _NUMBER_KINDS:
            raise ValueError(f"dtype {self.dtype!r} is not a numeric type")
        if self.scale is not None and (dtype.kind == "b" or not (math.isfinite(self.scale) and self.scale)):
            raise ValueError(f"scale {self.scale} of {self.dtype}; wanted a finite number other than 0, of numbers")
        if math.prod(length or 1 for length in self.shape) * dtype.itemsize > _MAX_TENSOR_BYTES:
            raise ValueError(f"shape {list(self.shape)} holds more than 4 GiB")

    @property
    def of_pixels(self) -> TensorSpec:
        """The same; with step 1 where it takes the bytes of pixels and nothing says what they stand for."""
        takes_bytes = self.dtype == "uint8" and self.scale is None
        return dataclasses.replace(self, scale=1.0) if takes_bytes else self

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Returns what the file takes for real numbers, `(N, C, H, W)` where they are 4-D: C-contiguous.

        One image fills a fixed batch: it is repeated. A file with fewer or more axes, `(C, H, W)` for example, gets
        its own.
        """
        if self.layout == "NHWC" and array.ndim == 4:
            array = array.transpose(0, 2, 3, 1)
        if self.scale is not None and np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            array = np.clip(np.rint(array / self.scale) + self.zero_point, limits.min, limits.max)
        elif self.scale is not None:
            array = array / self.scale + self.zero_point
        return np.ascontiguousarray(self._filled(array), self.dtype)

    def _filled(self, array: np.ndarray) -> np.ndarray:
        """Returns the array in the file's shape, if it is one image of that shape; else as it is."""
        lengths = [length for length in self.shape if length is not None]
        if len(lengths) < len(self.shape) or not lengths or array.shape == self.shape:
            return array
        for batch, image in ((1, lengths), (lengths[0], lengths[1:])):
            if _without_ones(image) == _without_ones(array.shape):
                return np.broadcast_to(array.reshape(-1), (batch, array.size)).reshape(lengths)
        return array

    def decode(self, array: np.ndarray) -> np.ndarray:
        """Returns the real numbers of what the file gives, `(N, C, H, W)` where they are 4-D."""
        if self.scale is not None:
            array = (array.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        if self.layout == "NHWC" and array.ndim == 4:
            array = array.transpose(0, 3, 1, 2)
        return array


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]
