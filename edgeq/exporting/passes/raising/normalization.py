"""BatchNormalization that trains or has a scale per element, GroupNormalization with a scale per group. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.passes.lowering.normalization import group_norm_by_groups
from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute, set_attribute

if TYPE_CHECKING:
    import onnx_ir as ir


def _per_channel_alone(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    """With `spatial` 0 each element has a scale, `(C, H, W)`."""
    if attribute(node, "spatial", 1):
        set_attribute(node, "spatial", None)
        return None
    source, gamma, beta, mean, variance = node.inputs
    spread = make("Sqrt", make("Add", variance, make.like(variance, attribute(node, "epsilon", 1e-5))))
    factor = make("Div", gamma, spread)
    shift = make("Sub", beta, make("Mul", mean, factor))
    return make("Add", make("Mul", source, factor), shift)


def _one_output(node: ir.Node, make: NodeBuilder) -> None:
    """Before opset 14 the further outputs say that it trains; exporters listed them in files that do not."""
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        make.refuse("gives the statistics of its batch, as in training; export the model in evaluation mode")
    node.resize_outputs(1)


NORMALIZATION: dict[tuple[str, int], Rule] = {
    ("BatchNormalization", 9): _per_channel_alone,
    ("BatchNormalization", 14): _one_output,
    ("GroupNormalization", 19): group_norm_by_groups,
}
