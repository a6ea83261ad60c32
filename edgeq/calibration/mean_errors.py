"""What quantized layers give too much on average, measured on the inputs that a calibration keeps with its ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeq.exporting.graphs.graph import copy_graph
from edgeq.exporting.passes.node_builder import NodeBuilder
from edgeq.files import sha256_bytes
from edgeq.runtimes.observer import ActivationObserver

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.grid import Grid
    from edgeq.exporting.jobs import MeanErrors
    from edgeq.exporting.planning.plan import QuantPlan

_BYTES = 1 << 28
"""Weights of the layers that are measured at a time."""


def mean_errors(
    graph: ir.Model, plan: QuantPlan, feeds: Sequence[Mapping[str, np.ndarray]], threads: int | None = None
) -> dict[str, np.ndarray]:
    """Returns name of a layer -> what it gives too much, float64 `(C,)`, for every layer whose bias becomes integers.

    Each layer is computed twice from the same float input: as it is, and with the plan's weight and its input on the
    plan's grid. The difference is averaged over the positions of all inputs. Eight inputs are enough: 24 gave no higher
    signal.

    Args:
        graph: The float graph that the plan was made for.
        plan: The plan.
        feeds: Inputs of the graph, each by name, all of one shape.
        threads: CPU threads of the engine.

    Raises:
        EngineError: the engine cannot run the graph.
    """
    found: dict[str, np.ndarray] = {}
    for part in _parts(plan) if feeds else ():
        measured = copy_graph(graph)
        names = _append_means(measured, plan, set(part))
        observer = ActivationObserver(measured, list(names.values()), threads)
        runs = [observer.observe(feed) for feed in feeds]
        for layer, name in names.items():
            mean = np.mean([run[name] for run in runs], axis=0, dtype=np.float64)
            found[layer] = np.where(np.isfinite(mean), mean, 0.0)
    return found


class _Measured(NamedTuple):
    """What the mean error of a layer depends on, in one graph.

    Attributes:
        name: The layer.
        weight: Digest of its quantized weight.
        grid: Of its input; `None` if that is float.
    """

    name: str
    weight: str
    grid: Grid | None


class RememberedErrors:
    """Mean errors of many plans of one graph; a layer with a weight and a grid that it had before is not run again.

    Args:
        measure: Measures those of a plan.
    """

    def __init__(self, measure: MeanErrors) -> None:
        self._measure = measure
        self._known: dict[_Measured, np.ndarray] = {}

    def __call__(self, graph: ir.Model, plan: QuantPlan) -> dict[str, np.ndarray]:
        """Returns what `mean_errors` does, up to the order of sums in float32."""
        layers = {str(node.name): node for node in graph.graph if node.name in plan.biases}
        grids = _grids(plan)
        keys = {
            name: _Measured(
                name,
                sha256_bytes(plan.weights[name].dequantize().tobytes()),
                None if node.inputs[0] is None else grids.get(str(node.inputs[0].name)),
            )
            for name, node in layers.items()
        }
        new = {name: bias for name, bias in plan.biases.items() if keys[name] not in self._known}
        if new:
            found = self._measure(graph, dataclasses.replace(plan, biases=new))
            self._known |= {keys[name]: error for name, error in found.items()}
        return {name: self._known[key] for name, key in keys.items() if key in self._known}


def _grids(plan: QuantPlan) -> dict[str, Grid]:
    """Returns name of a tensor -> its grid, of all that the plan has on one."""
    return {**plan.tied, **plan.tensors}


def _parts(plan: QuantPlan) -> Iterator[list[str]]:
    """Yields the layers with integer biases in parts whose float weights fit into memory together."""
    part: list[str] = []
    size = 0
    for name in plan.biases:
        added = 4 * plan.weights[name].integers.size
        if part and size + added > _BYTES:
            yield part
            part, size = [], 0
        part.append(name)
        size += added
    if part:
        yield part


def _append_means(graph: ir.Model, plan: QuantPlan, layers: set[str]) -> dict[str, str]:
    """Appends the mean errors of layers to a graph; returns name of a layer -> name of the tensor."""
    import onnx_ir as ir

    grids = _grids(plan)
    taken = {str(value.name) for node in graph.graph for value in node.outputs}
    taken.update(str(node.name) for node in graph.graph)
    taken.update(graph.graph.initializers, (str(value.name) for value in graph.graph.inputs))
    found = {}
    for node in [each for each in graph.graph if each.name in layers]:
        name = str(node.name)
        build = NodeBuilder(node, taken)
        error = _error(build, node, plan.weights[name].dequantize(), grids)
        channels = plan.biases[name].integers.size
        rank = 2 if node.op_type == "Gemm" else plan.weights[name].integers.ndim
        total = build("ReduceSum", error, build.ints(*(axis for axis in range(rank) if axis != 1)), keepdims=0)
        size = build("Cast", build("Size", error), to=ir.DataType.FLOAT)
        mean = build("Div", build("Mul", total, np.array(channels, np.float32)), size)
        mean.type, mean.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([channels])
        graph.graph.extend(build.nodes)
        found[name] = str(mean.name)
    return found


def _error(build: NodeBuilder, node: ir.Node, weight: np.ndarray, grids: Mapping[str, Grid]) -> ir.Value:
    """Returns the output of a layer with a quantized weight and input, less its own."""
    source = node.inputs[0]
    assert source is not None  # noqa: S101 - a layer of the plan reads something
    grid = grids.get(str(source.name))
    if grid is not None:
        scale = np.array(grid.scale, np.float32)
        ends = (np.array(end - grid.zero_point, np.float32) for end in (grid.qmin, grid.qmax))
        source = build("Mul", build("Clip", build("Round", build("Div", source, scale)), *ends), scale)
    inputs = (source, weight.astype(np.float32), *node.inputs[2:])
    quantized = build(node.op_type, *inputs, **{name: value.value for name, value in node.attributes.items()})
    return build("Sub", quantized, node.outputs[0])
