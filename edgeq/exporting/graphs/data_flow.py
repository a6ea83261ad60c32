"""What the values of a graph are made of: the image, its shape, or constants alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.subgraphs import has_subgraphs

if TYPE_CHECKING:
    import onnx_ir as ir

_SHAPE_OF = frozenset({"Shape", "Size"})


def image_values(model: ir.Model) -> set[ir.Value]:
    """Returns the values of the main graph that are computed from what the inputs hold.

    What is computed from their shapes alone is not among them, and neither is what constants alone decide.
    """
    found = set(model.graph.inputs)
    for node in model.graph:
        if node.op_type in _SHAPE_OF and not node.domain:
            continue
        if has_subgraphs(node) or any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def constant_values(model: ir.Model) -> set[ir.Value]:
    """Returns the values of the main graph that are constants, or that constants alone decide."""
    found = set(model.graph.initializers.values())
    for node in model.graph:
        if is_repeatable(node) and all(value is None or value in found for value in node.inputs):
            found.update(node.outputs)
    return found


_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def is_repeatable(node: ir.Node) -> bool:
    """Returns whether a node is an ONNX operator whose outputs its inputs decide."""
    return not node.domain and node.op_type not in _RANDOM and not has_subgraphs(node)


def is_float(value: ir.Value) -> bool:
    """Returns whether a value holds floats, or nothing is known of its type."""
    return value.dtype is None or value.dtype.is_floating_point()
