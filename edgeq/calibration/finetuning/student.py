"""The network that is trained: a planned file in torch, whose weights, biases and steps can move."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.finetuning.fake_quantize import fake_quantize
from edgeq.calibration.finetuning.torch_graph import TorchGraph
from edgeq.exporting.graphs.graph import copy_graph, weight_of
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.planning.saturation import SaturationGuard
from edgeq.quantizers.bias import quantize_bias, scale_for_bias
from edgeq.quantizers.weight import QuantizedWeight, round_to, spread

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeq.calibrators.grid import Grid
    from edgeq.exporting.jobs import PlannedModel
    from edgeq.exporting.planning.plan import QuantPlan

_TYPICAL = 32
"""Steps of an activation that a bias is taken to make up for: an eighth of the 256 of its grid."""

_INT32 = float(np.iinfo(np.int32).min), float(np.iinfo(np.int32).max)


class TrainedLayer:
    """Weight and bias of one layer while they are trained.

    Args:
        weight: The float weight.
        quantized: The same as the plan has it.
        bias: The bias as the plan has it; `None` without integers.
        input_step: The step of the layer's input.

    Attributes:
        largest: The largest integer of the weight.
        weight: The weight in steps of the plan, of the weight's shape.
        bias: The bias in units of what a step of a weight changes, `(channels,)`; empty without one.
        growth: How many steps further the largest number lies than in the plan, in a shape that spreads over it.
    """

    def __init__(
        self, weight: np.ndarray, quantized: QuantizedWeight, bias: QuantizedWeight | None, input_step: float
    ) -> None:
        import torch

        self._quantized, self._has_bias = quantized, bias is not None
        scale = spread(quantized.scale, quantized).astype(np.float64)
        zero = spread(quantized.zero_point, quantized).astype(np.float64)
        middle = float(zero.max())  # integers around zero: one and the same for all channels
        self._ends = quantized.scheme.qmin - middle, quantized.scheme.qmax - middle
        self.largest = float(quantized.scheme.qmax - middle)
        steps, integers = weight.astype(np.float64) / scale, quantized.integers.astype(np.float64) - middle
        # Where the plan does not hold the nearest integer, it was chosen for a reason: training begins there.
        steps = np.where(np.clip(np.rint(steps), *self._ends) == integers, steps, integers)
        real = np.zeros(0, np.float32) if bias is None else bias.dequantize()
        unit = np.broadcast_to(_TYPICAL * input_step * quantized.scale, real.shape) if bias is not None else real
        self._scale = torch.from_numpy(np.array(scale, np.float32))
        self._unit = torch.from_numpy(np.array(unit, np.float32))
        self.weight = torch.from_numpy(steps.astype(np.float32)).requires_grad_()
        self.bias = (torch.from_numpy(real) / self._unit).requires_grad_()
        self.growth = torch.zeros_like(self._scale).requires_grad_()

    def values(self, input_step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns weight and bias as they would be stored, for a step of the layer's input."""
        factor = _factor(self.growth, self.largest)
        weight = fake_quantize(self.weight, factor, self._ends) * self._scale
        if not self._has_bias:
            return weight, self.bias
        step = (factor * self._scale * input_step).detach().reshape(-1)
        return weight, fake_quantize(self.bias * self._unit, step, _INT32)

    def stored(
        self, node: ir.Node, guard: SaturationGuard | None, grid: Grid
    ) -> tuple[QuantizedWeight, QuantizedWeight | None]:
        """Returns the weight and the bias as integers.

        Args:
            node: The layer.
            guard: Fits the weight to sums in 16 bits, for CPUs that have no others.
            grid: The grid of the layer's input.
        """
        before = self._quantized
        weight = (self.weight.detach() * self._scale).numpy()
        scale = (_factor(self.growth.detach(), self.largest) * self._scale).numpy().reshape(before.scale.shape)
        integers = round_to(weight, scale, before.zero_point, before.scheme)
        quantized = dataclasses.replace(before, integers=integers, scale=scale)
        if guard is not None:
            quantized = guard.fit(node, weight, quantized, grid)
        if not self._has_bias:
            return quantized, None
        bias = (self.bias.detach() * self._unit).numpy()
        quantized = quantized.rescaled(weight, scale_for_bias(quantized.scale, quantized.dead, bias, grid.scale))
        return quantized, quantize_bias(bias, quantized.scale, grid.scale)


class Student:
    """The quantized network of a plan, with everything that can be trained.

    Args:
        planned: The file that is about to be written.

    Attributes:
        names: Names of the outputs of floating point.
        layers: Name of a layer with a quantized weight -> what is trained of it.
        growths: Grid of activations -> how many steps further its largest number lies than in the plan, `()`.

    Raises:
        ModelError: the graph has operators without a gradient here.
    """

    def __init__(self, planned: PlannedModel) -> None:
        import torch

        self._planned, plan = planned, planned.plan
        self._grids = {**plan.tied, **plan.tensors}
        graph = copy_graph(planned.graph)
        insert_qdq(graph, plan, planned.target.rules)
        self._nodes = {str(node.name): node for node in planned.graph.graph if node.name in plan.weights}
        self._names: dict[str, tuple[str, str]] = {}
        self.layers: dict[str, TrainedLayer] = {}
        for node in graph.graph:
            name = str(node.name)
            if name not in plan.weights:
                continue
            weight = weight_of(self._nodes[name])
            assert weight is not None  # noqa: S101 - the plan has quantized it
            bias = plan.biases.get(name)
            self.layers[name] = TrainedLayer(weight, plan.weights[name], bias, self._grid(name).scale)
            read = [str(value.name) for value in node.inputs if value is not None]
            self._names[name] = read[1], read[2] if bias is not None else ""
        given = [each for names in self._names.values() for each in names]
        self._graph = TorchGraph(graph, given)
        self.names = self._graph.outputs
        self.growths = {plan.tensors[name]: torch.zeros(()).requires_grad_() for name in self._graph.steps}

    def outputs(self, inputs: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Returns name -> output for several images, each of the graph's own shape, behind each other in a new axis.

        Args:
            inputs: Every input of the graph, with that axis in front.

        Raises:
            ModelError: an operator cannot be run in the form that the graph has it in.
        """
        import torch

        by_grid = {
            grid: float(np.float32(grid.scale)) * _factor(growth, _largest(grid))
            for grid, growth in self.growths.items()
        }
        given: dict[str, torch.Tensor] = {}
        for name, layer in self.layers.items():
            given |= zip(self._names[name], layer.values(by_grid[self._grid(name)]), strict=True)
        steps = {name: by_grid[self._planned.plan.tensors[name]] for name in self._graph.steps}
        return self._graph.run_batch({name: torch.from_numpy(x) for name, x in inputs.items()}, given, steps)

    def parameters(self) -> list[tuple[float, list[torch.Tensor]]]:
        """Returns what can be trained, counted in steps: the largest integer of each grid, and what lies on it."""
        layers = [(layer.largest, [layer.weight, layer.bias, layer.growth]) for layer in self.layers.values()]
        return [*layers, *((_largest(grid), [growth]) for grid, growth in self.growths.items())]

    def plan(self) -> QuantPlan:
        """Returns the plan with the weights, biases and grids as they are trained."""
        planned, plan = self._planned, self._planned.plan
        grids = {
            grid: dataclasses.replace(grid, scale=grid.scale * float(_factor(growth.detach(), _largest(grid))))
            for grid, growth in self.growths.items()
        }
        rules = planned.target.rules
        guard = SaturationGuard(planned.ranges.channel_maxima) if rules.saturates else None
        weights, biases = dict(plan.weights), dict(plan.biases)
        for name, layer in self.layers.items():
            grid = self._grid(name)
            weights[name], bias = layer.stored(self._nodes[name], guard, grids.get(grid, grid))
            if bias is not None:
                biases[name] = bias
        tensors, tied = (
            {name: grids.get(grid, grid) for name, grid in found.items()} for found in (plan.tensors, plan.tied)
        )
        return dataclasses.replace(plan, tensors=tensors, tied=tied, weights=weights, biases=biases)

    def _grid(self, layer: str) -> Grid:
        source = self._nodes[layer].inputs[0]
        return self._grids[str(source.name) if source is not None else ""]


def _largest(grid: Grid) -> float:
    return float(max(grid.qmax - grid.zero_point, grid.zero_point - grid.qmin))


def _factor(growth: torch.Tensor, largest: float) -> torch.Tensor:
    """Returns how many times as large a step is if its largest number has moved by `growth` steps."""
    return (growth / largest).exp()
