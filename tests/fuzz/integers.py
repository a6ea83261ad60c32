"""What the arithmetic of a quantized file leaves of its model: half a step of noise where it rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.calibrators.grid import SMALLEST_AMAX
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.onnx.writer import engine_graph
from tests.fuzz.exports import FaultError, Written
from tests.fuzz.noise import FEW, Arrays, Noisy, Spread, nameless, observed, spreads

if TYPE_CHECKING:
    from edgeq.calibrators.grid import Grid
    from tests.fuzz.expected import Expected

_ROOM = 1.02
"""How much wider than its values a grid may be."""


def _proto(graph: Any) -> onnx.ModelProto:
    import onnx_ir

    return nameless(onnx_ir.to_proto(graph))


def int8_spread(file: Written, expected: Expected, seeds: int = FEW) -> list[Spread]:
    """Returns what half a step on every quantized tensor and weight makes of the outputs, and checks the grids."""
    planned = file.planned
    assert planned is not None
    graph, plan = planned.graph, planned.plan
    inputs = {each.name for each in graph.graph.input}
    constants = {each.name: each for each in graph.graph.initializer}
    computed = [name for name in (*plan.tensors, *plan.tied) if name not in inputs and name not in constants]
    values = observed(graph, computed, expected.feeds)
    # Borders that a rewrite cuts off again are in no calibration.
    own = {str(value.name) for node in file.model.graph.graph for value in node.outputs}
    seen = [{name: array for name, array in each.items() if name in own} for each in values]
    fixed = {name: numpy_helper.to_array(constants[name]) for name in plan.tied if name in constants}
    every = [{**feed, **each, **fixed} for feed, each in zip(expected.feeds, seen, strict=True)]
    _check_grids(file, expected, {**plan.tensors, **plan.tied}, every)
    nodes = {node.name: node for node in planned.named.graph.node}
    weights = {}
    for name, weight in plan.weights.items():
        source = nodes[name].input[1]
        scale = np.asarray(weight.scale, np.float32)
        if weight.axis is not None:
            scale = scale.reshape([-1 if axis == weight.axis else 1 for axis in range(weight.integers.ndim)])
        off = np.abs(weight.dequantize() - numpy_helper.to_array(constants[source])) / scale
        if off.max(initial=0) > 0.51:
            raise FaultError(f"{file.label}: weights", f"{name}: off by {off.max():.2f} steps")
        weights[source] = np.broadcast_to(scale / 2, weight.integers.shape).astype(np.float32)
    tensors = [name for name in plan.tensors if name in computed and name not in expected.jumping]

    def half(name: str, array: NDArray[Any]) -> NDArray[Any]:
        return np.full(array.shape, plan.tensors[name].scale / 2, array.dtype)

    halves = [{name: half(name, each[name]) for name in tensors} for each in values]
    moved = [{name: half(name, feed[name]) for name in feed if name in plan.tensors} for feed in expected.feeds]
    noisy = Noisy(graph, tensors, list(weights))
    return spreads(noisy, expected.feeds, expected.outputs, halves, weights, moved, seeds)


def _check_grids(file: Written, expected: Expected, grids: Mapping[str, Grid], values: Sequence[Arrays]) -> None:
    """Checks that every grid covers what its tensors hold, and nothing else."""
    label = file.label
    members: dict[Grid, list[str]] = {}
    for name, grid in grids.items():
        members.setdefault(grid, []).append(name)
    for grid, names in members.items():
        arrays = [each[name] for each in values for name in names if name in each and each[name].size]
        if not arrays:
            continue
        low, high, width = _reach(arrays, grid)
        least, most = grid.ends
        found = f"{names} hold {low:.4g}..{high:.4g}, the grid {least:.4g}..{most:.4g}"
        if low < least - 1.01 * grid.scale or high > most + 1.01 * grid.scale:
            raise FaultError(f"{label}: a grid that cuts off", found)
        levels = grid.qmax - grid.qmin
        if width < SMALLEST_AMAX or grid.scale <= _ROOM * width / min(levels, 254):
            continue
        if grid.scale > _ROOM * _width_in_model(file, expected, names, grid) / min(levels, 254):
            raise FaultError(f"{label}: a grid that is too wide", found)


def _width_in_model(file: Written, expected: Expected, names: Sequence[str], grid: Grid) -> float:
    """Returns how wide a grid has to be for the model's tensors, of which a file may compute a part alone."""
    model = _proto(file.model.graph)
    computed = {name for node in model.graph.node for name in node.output}
    seen = observed(model, [name for name in names if name in computed], expected.feeds)
    return _reach([array for each in seen for array in each.values() if array.size], grid)[2]


def _reach(arrays: Sequence[NDArray[Any]], grid: Grid) -> tuple[float, float, float]:
    """Returns the least and the largest value, zero among them, and how wide a grid of that kind has to be for them."""
    low = min([0.0, *(float(each.min()) for each in arrays)])
    high = max([0.0, *(float(each.max()) for each in arrays)])
    return low, high, 2 * max(high, -low) if grid.scheme.symmetric else high - low


def dynamic_spread(file: Written, expected: Expected, seeds: int = FEW) -> list[Spread]:
    """Returns what half a step of ranges measured at every run makes of the outputs."""
    graph = engine_graph(file.model, file.target)
    proto = _proto(graph)
    nodes = [node for node in graph.graph if weight_of(node) is not None]
    inputs = {each.name for each in proto.graph.input}
    read = list(dict.fromkeys(str(node.inputs[0].name) for node in nodes if node.inputs[0] is not None))
    constants = {each.name for each in proto.graph.initializer}
    tensors = [name for name in read if name not in inputs | constants | expected.jumping]
    values = observed(proto, tensors, expected.feeds)
    weights = {}
    for node in nodes:
        weight = weight_of(node)
        assert weight is not None and node.inputs[1] is not None
        weights[str(node.inputs[1].name)] = np.full(weight.shape, np.abs(weight).max(initial=0) / 254, np.float32)

    def half(array: NDArray[Any]) -> NDArray[Any]:
        step = (max(array.max(initial=0), 0) - min(array.min(initial=0), 0)) / 255
        return np.full(array.shape, step / 2, array.dtype)

    halves = [{name: half(each[name]) for name in tensors} for each in values]
    moved = [{name: half(array) for name, array in feed.items() if name in read} for feed in expected.feeds]
    noisy = Noisy(proto, tensors, list(weights))
    return spreads(noisy, expected.feeds, expected.outputs, halves, weights, moved, seeds)
