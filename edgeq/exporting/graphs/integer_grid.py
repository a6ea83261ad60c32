"""Grids of integers as ONNX operators describe them: by a scale and a zero point among their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibrators.grid import Range
from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class IntegerGrid:
    """What integers stand for: `real = (integer - zero_point) * scale`.

    Attributes:
        scale: Float array, `()` or along an axis, or of several axes for blocks.
        zero_point: Integers of the same shape.
        axis: The axis of several scales.
        block: How many integers along the axis share a scale, for blocks.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0
    block: int = 0

    def range(self) -> Range:
        """Returns the real numbers that the integers of a tensor with one scale reach."""
        least, most = _limits(self.zero_point.dtype)
        scale, zero = float(self.scale.reshape(-1)[0]), int(self.zero_point.reshape(-1)[0])
        low, high = (least - zero) * scale, (most - zero) * scale
        # -128 has no opposite: a grid around zero has the same step without it.
        middle = (least + most + 1) // 2
        return Range(low, high, high if zero == middle else max(high, -low))

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Returns the real numbers, of the scale's type."""
        scale, zero = (self._spread(each, integers.shape) for each in (self.scale, self.zero_point))
        steps = integers.astype(np.float64) - zero.astype(np.float64)
        real: np.ndarray = (steps * scale.astype(np.float64)).astype(self.scale.dtype)
        return real

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Returns the nearest integers."""
        least, most = _limits(self.zero_point.dtype)
        scale, zero = (self._spread(each, real.shape) for each in (self.scale, self.zero_point))
        steps = np.rint(real.astype(np.float64) / scale.astype(np.float64)) + zero.astype(np.float64)
        integers: np.ndarray = np.clip(steps, least, most).astype(zero.dtype)
        return integers

    def _spread(self, parameters: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if parameters.size == 1:
            return parameters.reshape(())
        axis = self.axis % len(shape)
        if self.block:
            return np.repeat(parameters, self.block, axis).take(range(shape[axis]), axis)
        return parameters.reshape([-1 if each == axis else 1 for each in range(len(shape))])


def grid_at(node: ir.Node, scale: int, zero_point: int, dtype: np.dtype | None = None) -> IntegerGrid:
    """Returns the grid that two inputs of a node describe.

    Args:
        node: The node.
        scale: Which input holds the scale.
        zero_point: Which holds the zero point; it may be absent.
        dtype: Type of the integers where it is; by default that of `y_dtype`, or uint8.

    Raises:
        ModelError: they are no constants.
    """
    steps = constant(node.inputs[scale])
    given = node.inputs[zero_point] if len(node.inputs) > zero_point else None
    zero = np.zeros(() if steps is None else steps.shape, dtype or np.uint8) if given is None else constant(given)
    if steps is None or zero is None:
        raise ModelError(
            f"{node.op_type} {node.name!r} reads a scale that is computed at every run, so there is none to take; give "
            "the float model"
        )
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    return IntegerGrid(steps, zero, axis, block)


def _limits(dtype: np.dtype) -> tuple[int, int]:
    if dtype.kind not in "iu":
        raise ModelError(f"the file is quantized to {dtype}; edgeq takes scales of integers of 8 and more bits")
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
