"""What a quantized graph becomes on the way to real numbers: its tensors, their ranges and the scales of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import constant, new_initializer, opset_of
from edgeq.exporting.graphs.integer_grid import IntegerGrid
from edgeq.exporting.graphs.moves import MOVES_VALUES

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.grid import Range

_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt", "Softplus"})
_KEEPS_SIGN = MOVES_VALUES | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"}

_SIX, _NEAR = 6.0, 0.01
_CLIP_HAS_INPUTS = 11


@dataclass
class TakenScales:
    """The scales of a quantized graph, by the names of its float graph.

    Attributes:
        tensors: Tensor name -> its range.
        weights: Name of a weight -> its scales, and the axis that they belong to if they are several.
    """

    tensors: dict[str, Range] = field(default_factory=dict)
    weights: dict[str, tuple[np.ndarray, int]] = field(default_factory=dict)


class RealTensors:
    """The tensors of real numbers of a graph that is brought to them, and what its integers stood for.

    Args:
        model: The graph.

    Attributes:
        ranges: Tensors and their ranges, those of one tensor in order.
        weights: Constants and what their integers stood for.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        # Identity of a tensor of integers -> the tensor of real numbers that it stood for, and its grid.
        self._real: dict[int, tuple[ir.Value, IntegerGrid]] = {}
        self.ranges: list[tuple[ir.Value, Range]] = []
        self.weights: list[tuple[ir.Value, IntegerGrid]] = []

    def knows(self, value: ir.Value | None) -> bool:
        """Returns whether a tensor of integers has one of real numbers."""
        return value is not None and id(value) in self._real

    def grid_of(self, value: ir.Value) -> IntegerGrid:
        """Returns the grid of a tensor of integers that is known."""
        return self._real[id(value)][1]

    def real(self, node: ir.Node, value: ir.Value | None, grid: IntegerGrid, name: str) -> ir.Value:
        """Returns the tensor of real numbers of what a node reads.

        Args:
            node: The node.
            value: A tensor of integers, or a constant.
            grid: What its integers stand for.
            name: What to call a constant.
        """
        import onnx_ir as ir

        assert value is not None  # noqa: S101 - the caller has looked
        if id(value) in self._real:
            return self._real[id(value)][0]
        array = constant(value)
        if array is not None:
            return self.constant(grid.dequantize(array), name, grid if array.dtype.itemsize == 1 else None)
        parameters = [new_initializer(self._model, f"{value.name}_scale", grid.scale)]
        parameters.append(new_initializer(self._model, f"{value.name}_zero_point", grid.zero_point))
        first = ir.node("DequantizeLinear", [value, *parameters], name=f"{value.name}_dequantize")
        result = first.outputs[0]
        result.name, result.shape = f"{value.name}_dequantized", value.shape
        result.type = ir.TensorType(ir.DataType.from_numpy(grid.scale.dtype))
        self._model.graph.insert_before(node, first)
        self.ranges.append((result, grid.range()))
        self._real[id(value)] = result, grid
        return result

    def constant(self, array: np.ndarray, name: str, grid: IntegerGrid | None) -> ir.Value:
        """Returns a new constant of real numbers; with a grid it may be a weight."""
        value = new_initializer(self._model, name, array)
        if grid is not None:
            self.weights.append((value, grid))
        return value

    def stands_for(self, integers: ir.Value, real: ir.Value, grid: IntegerGrid, before: ir.Node) -> None:
        """Notes what a tensor of integers stands for.

        Where its range begins at zero, and nothing before it says that there are no negative numbers, a Relu is put
        behind it, or a Clip for a range that ends at six: tools leave out what the rounding to such a range does too.

        Args:
            integers: The tensor.
            real: The same in real numbers.
            grid: What the integers stand for.
            before: The node that it would stand before.
        """
        if grid.scale.size != 1:
            raise ModelError(f"tensor {real.name!r} has a scale for each channel; edgeq takes one for an activation")
        found = grid.range()
        if found.low == 0 and not _is_not_negative(real):
            clipping = self._clipping(real, found.high)
            (result,) = clipping.outputs
            result.name, result.shape, result.type = f"{real.name}_relu", real.shape, real.type
            self._model.graph.insert_before(before, clipping)
            real = result
        self._real[id(integers)] = real, grid
        self.ranges.append((real, found))

    def _clipping(self, real: ir.Value, high: float) -> ir.Node:
        import onnx_ir as ir

        name = f"{real.name}_relu"
        if abs(high / _SIX - 1) > _NEAR:
            return ir.node("Relu", [real], name=name)
        if opset_of(self._model) < _CLIP_HAS_INPUTS:
            return ir.node("Clip", [real], {"min": 0.0, "max": _SIX}, name=name)
        dtype = np.float32 if real.dtype is None else real.dtype.numpy()
        ends = [new_initializer(self._model, f"{name}_{end:g}", np.array(end, dtype)) for end in (0.0, _SIX)]
        return ir.node("Clip", [real, *ends], name=name)

    def stands_for_constant(self, integers: ir.Value, real: ir.Value, grid: IntegerGrid) -> None:
        """Notes what a tensor stands for that a node makes of a constant."""
        self._real[id(integers)] = real, grid

    def moved(self, integers: ir.Value, grid: IntegerGrid) -> None:
        """Notes that a tensor holds real numbers now, on the grid that its integers had."""
        self._real[id(integers)] = integers, grid


def _is_not_negative(value: ir.Value) -> bool:
    """Returns whether a tensor has no negative numbers by how it is computed; an image's are its pre-processing's."""
    node = value.producer()
    if node is None:
        return value.is_graph_input()
    if node.op_type in _NOT_NEGATIVE:
        return True
    if node.op_type == "Clip":
        least = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return least is not None and float(least) >= 0
    given = node.inputs if node.op_type == "Concat" else node.inputs[:1]
    return node.op_type in _KEEPS_SIGN and all(each is not None and _is_not_negative(each) for each in given)
