"""What the arithmetic of a quantized file leaves of its model: half a step of noise where it rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.onnx.writer import engine_graph
from tests.fuzz.exports import FaultError, Written
from tests.fuzz.noise import Arrays, Noisy, Spread, nameless, observed, spreads

if TYPE_CHECKING:
    from edgeq.calibrators.grid import Grid
    from tests.fuzz.checks import Expected

_ROOM = 1.02
"""How much wider than its values a grid may be."""


def _proto(graph: Any) -> onnx.ModelProto:
    import onnx_ir

    return nameless(onnx_ir.to_proto(graph))


def int8_spread(file: Written, expected: Expected) -> list[Spread]:
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
    _check_grids(file.label, {**plan.tensors, **plan.tied}, every)
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
    return spreads(Noisy(graph, tensors, list(weights)), expected.feeds, expected.outputs, halves, weights, moved)


def _check_grids(label: str, grids: Mapping[str, Grid], values: Sequence[Arrays]) -> None:
    """Checks that every grid covers what its tensors hold, and nothing else."""
    members: dict[Grid, list[str]] = {}
    for name, grid in grids.items():
        members.setdefault(grid, []).append(name)
    for grid, names in members.items():
        arrays = [each[name] for each in values for name in names if name in each and each[name].size]
        if not arrays:
            continue
        low, high = min(0.0, *(float(each.min()) for each in arrays)), max(0.0, *(float(each.max()) for each in arrays))
        least, most = grid.ends
        found = f"{names} hold {low:.4g}..{high:.4g}, the grid {least:.4g}..{most:.4g}"
        if low < least - 1.01 * grid.scale or high > most + 1.01 * grid.scale:
            raise FaultError(f"{label}: a grid that cuts off", found)
        levels = grid.qmax - grid.qmin
        width = 2 * max(high, -low) if grid.scheme.symmetric else high - low
        if width and grid.scale > _ROOM * width / min(levels, 254):
            raise FaultError(f"{label}: a grid that is too wide", found)


def dynamic_spread(file: Written, expected: Expected) -> list[Spread]:
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
    return spreads(Noisy(proto, tensors, list(weights)), expected.feeds, expected.outputs, halves, weights, moved)
