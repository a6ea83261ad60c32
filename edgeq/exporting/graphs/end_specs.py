"""Inputs and outputs of a graph, with the grids of those that are integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import specs
from edgeq.exporting.graphs.integer_grid import grid_at
from edgeq.exporting.graphs.quantized import DOMAINS
from edgeq.exporting.tensor_spec import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

Ends = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]
"""Inputs and outputs of a model, each in order."""


def end_specs(model: ir.Model) -> Ends:
    """Returns inputs and outputs with what their integers stand for.

    That is said by a DequantizeLinear behind an input and a QuantizeLinear before an output; bytes of an image without
    one stand for themselves.

    Raises:
        ModelError: one has no known type and shape.
    """
    behind = [[use.node for use in value.uses()] for value in model.graph.inputs]
    before = [[node] if (node := value.producer()) is not None else [] for value in model.graph.outputs]
    inputs = [_on_grid(*pair, "DequantizeLinear") for pair in zip(specs(model.graph.inputs), behind, strict=True)]
    outputs = [_on_grid(*pair, "QuantizeLinear") for pair in zip(specs(model.graph.outputs), before, strict=True)]
    return tuple(spec.of_pixels for spec in inputs), tuple(outputs)


def _on_grid(spec: TensorSpec, nodes: Sequence[ir.Node], operator: str) -> TensorSpec:
    node = next((node for node in nodes if node.op_type == operator and node.domain in DOMAINS), None)
    if node is None:
        return spec
    try:
        grid = grid_at(node, 1, 2)
    except ModelError:  # computed at every run
        return spec
    if grid.scale.size != 1:
        return spec
    return dataclasses.replace(
        spec, scale=float(grid.scale.reshape(())), zero_point=int(grid.zero_point.reshape(-1)[0])
    )
