"""Nodes that hold graphs of their own (If, Loop, Scan), and what those read from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx_ir as ir


class Capture(NamedTuple):
    """A tensor of a graph that a node inside a subgraph reads.

    Attributes:
        reader: The node inside.
        position: Which of its inputs it is.
        value: The tensor.
    """

    reader: ir.Node
    position: int
    value: ir.Value


def nodes_inside(node: ir.Node) -> Iterator[ir.Node]:
    """Yields the nodes of a node's subgraphs, and of theirs."""
    for graph in _bodies(node):
        for inner in graph:
            yield inner
            yield from nodes_inside(inner)


def captures(node: ir.Node, graph: ir.Graph) -> list[Capture]:
    """Returns the computed tensors and inputs of a graph that are read inside the subgraphs of one of its nodes."""
    return [
        Capture(inner, position, value)
        for inner in nodes_inside(node)
        for position, value in enumerate(inner.inputs)
        if value is not None and _is_of(value, graph)
    ]


def forget_removed_readers(model: ir.Model) -> bool:
    """Lets tensors forget what read them inside nodes that are gone, in place; returns whether there was any.

    Who removes an If detaches it from its own inputs alone: what its branches captured would still count as read there.
    """
    live = {id(node) for node in model.graph.all_nodes()}
    removed = [
        use
        for value in (*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs))
        for use in value.uses()
        if id(use.node) not in live
    ]
    for node, position in removed:
        node.replace_input_with(position, None)
    return bool(removed)


def has_subgraphs(node: ir.Node) -> bool:
    """Returns whether a node holds a graph, which may read any value of the graphs around it."""
    return next(_bodies(node), None) is not None


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    import onnx_ir as ir

    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _is_of(value: ir.Value, graph: ir.Graph) -> bool:
    producer = value.producer()
    if producer is not None:
        return producer.graph is graph
    return any(value is each for each in graph.inputs) and not value.is_initializer()
