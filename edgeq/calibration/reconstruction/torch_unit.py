"""A unit of a graph in torch, on windows of maps, with activations on their grids: what gradients go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.calibration.reconstruction.units import Unit
from edgeq.calibration.reconstruction.windows import (
    Window,
    lengths_of,
    read_by,
    step_of,
    strides_of,
    windows_of,
)
from edgeq.exporting.graphs.graph import constant, data_inputs, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeq.calibrators.grid import Grid
    from edgeq.exporting.planning.plan import QuantPlan

_AXES = (0, 1)


class TorchUnit:
    """Computes a unit from its source, with given weights for the layers that are learned.

    Args:
        unit: The unit.
        plan: The grids of its tensors, and which nodes read them.
        size: Height and width of the source's maps; nothing for matrices.
        most: Most positions of the output's window along an axis.

    Attributes:
        size: Height and width of the output's window.
        steps: What origins of output windows have to be multiples of.
        lengths: Tensor name -> its whole length, for height and width.
    """

    def __init__(self, unit: Unit, plan: QuantPlan, size: Sequence[int], most: int) -> None:
        import torch

        self._unit, self._plan = unit, plan
        self._grids = {**plan.tied, **plan.tensors}
        self._constants = {
            str(node.name): tuple(
                None if array is None else torch.from_numpy(np.array(array, np.float32))
                for array in (weight_of(node), constant(node.inputs[2]) if len(node.inputs) > 2 else None)
            )
            for node in unit.nodes
            if weight_of(node) is not None
        }
        self.lengths = [lengths_of(unit.nodes, unit.source, length, axis) for axis, length in enumerate(size)]
        self.steps = [step_of(unit.nodes, axis) for axis in range(len(size))]
        self.size = [
            _window_size(lengths[unit.output], step, most)
            for lengths, step in zip(self.lengths, self.steps, strict=True)
        ]
        self._windows: list[dict[str, Window]] = []
        for axis, positions in enumerate(self.size):
            found = windows_of(unit.nodes, unit.output, positions, axis)
            assert found is not None  # noqa: S101 - all paths of a residual block have the same strides
            self._windows.append(found)

    @property
    def source_windows(self) -> list[Window]:
        """What a window of the output reads of the source, for height and width."""
        return [windows[self._unit.source] for windows in self._windows]

    def __call__(
        self,
        sources: torch.Tensor,
        floats: torch.Tensor,
        origins: torch.Tensor,
        weights: Mapping[str, torch.Tensor],
        dropped: float = 0.0,
        chance: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Returns the output, `(N, C, *size)` of windows.

        Args:
            sources: The source as the quantized model has it, `(N, C, H, W)` of windows.
            floats: The same as the float model has it.
            origins: Where each window of the output starts, `(N, 2)`; empty for matrices.
            weights: Layer -> its weight.
            dropped: Share of the activations that stay in float at random ("QDrop", Wei et al., 2022).
            chance: Decides which.
        """
        values = {self._unit.source: sources}
        rounded = {self._unit.source: _on_grid(sources, floats, self._grids.get(self._unit.source), dropped, chance)}
        for node in self._unit.nodes:
            name = str(node.outputs[0].name)
            known = rounded if node.name in self._plan.quantized else values
            inputs = [self._read(node, str(value.name), known) for value in data_inputs(node)]
            found = self._compute(node, inputs, weights)
            if name != self._unit.output:
                found = self._without_padding(name, found, origins)
                rounded[name] = _on_grid(found, found, self._grids.get(name), dropped, chance)
            values[name] = found
        return values[self._unit.output]

    def _read(self, node: ir.Node, name: str, known: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Returns the part of an input that a node reads for its window."""
        found = known[name]
        for axis, windows in enumerate(self._windows):
            needed = read_by(node, windows[str(node.outputs[0].name)], axis)
            found = found.narrow(2 + axis, needed.offset - windows[name].offset, needed.size)
        return found

    def _without_padding(self, name: str, found: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        """Returns windows of a map with zeros beyond the map, where its readers have their padding."""
        import torch

        for axis, windows in enumerate(self._windows):
            window, length = windows[name], self.lengths[axis][name]
            scale = window.scale
            starts = origins[:, axis] * scale.numerator // scale.denominator + window.offset
            positions = starts[:, None] + torch.arange(window.size)
            inside = ((positions >= 0) & (positions < length)).to(found.dtype)
            shape = (len(inside), 1, -1, 1) if axis == 0 else (len(inside), 1, 1, -1)
            found = found * inside.reshape(shape)
        return found

    def _compute(
        self, node: ir.Node, inputs: Sequence[torch.Tensor], weights: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        from torch.nn import functional

        first = inputs[0]
        if node.op_type in ("Add", "Mul"):
            return first + inputs[1] if node.op_type == "Add" else first * inputs[1]
        if node.op_type in ("Relu", "Clip", "LeakyRelu", "Sigmoid"):
            return _activation(node, first)
        name = str(node.name)
        plain, bias = self._constants[name]
        weight = weights.get(name, plain)
        assert weight is not None  # noqa: S101 - what has constants has a weight
        if node.op_type in ("Gemm", "MatMul"):
            transposed = "transB" in node.attributes and node.attributes["transB"].as_int()
            result = first @ (weight.T if transposed else weight)
            return result if bias is None else result + bias
        strides = [strides_of(node, axis) for axis in _AXES]
        groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
        by = tuple(each.stride for each in strides)
        if node.op_type == "Conv":
            dilations = tuple(node.attributes["dilations"].as_ints()) if "dilations" in node.attributes else (1, 1)
            return functional.conv2d(first, weight, bias, by, 0, dilations, groups)
        whole: torch.Tensor = functional.conv_transpose2d(first, weight, bias, by, groups=groups)
        for axis, (windows, moves) in enumerate(zip(self._windows, strides, strict=True)):
            output = windows[str(node.outputs[0].name)]
            start = output.offset + moves.before - read_by(node, output, axis).offset * moves.stride
            missing = start + output.size - whole.shape[2 + axis]
            if missing > 0:  # `output_padding`: positions that no kernel reaches
                padding = (0, 0, 0, missing) if axis == 0 else (0, missing)
                whole = functional.pad(whole, padding)
            whole = whole.narrow(2 + axis, start, output.size)
        return whole


def _window_size(length: int, step: int, most: int) -> int:
    """Returns the positions of a window: the whole length if it is short enough, else a multiple of the step."""
    return length if length <= most else max(most // step, 1) * step


def _activation(node: ir.Node, value: torch.Tensor) -> torch.Tensor:
    import torch

    if node.op_type == "Relu":
        return torch.relu(value)
    if node.op_type == "Sigmoid":
        return torch.sigmoid(value)
    if node.op_type == "LeakyRelu":
        slope = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.01
        return torch.nn.functional.leaky_relu(value, slope)
    ends: list[Any] = [constant(node.inputs[index]) if len(node.inputs) > index else None for index in (1, 2)]
    low, high = (None if end is None else float(end) for end in ends)
    return value if low is None and high is None else torch.clamp(value, low, high)


def _on_grid(
    value: torch.Tensor, floats: torch.Tensor, grid: Grid | None, dropped: float, chance: torch.Generator | None
) -> torch.Tensor:
    """Returns activations on a grid, some of them as they are in float; gradients go straight through within it."""
    import torch

    found = value
    if grid is not None:
        found = torch.fake_quantize_per_tensor_affine(
            value, grid.scale, int(grid.zero_point), int(grid.qmin), int(grid.qmax)
        )
    if not dropped:
        return found
    stays = torch.rand(value.shape, generator=chance) < dropped
    return torch.where(stays, floats, found)
