"""The attentions of a graph as their nodes: two products of activations, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.moves import REARRANGES, moved_from, moved_inputs, moves_values

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.graphs.transformer import Transformer


@dataclass(frozen=True)
class Attention:
    """One attention that is written as two MatMul nodes.

    Attributes:
        logits: The product of queries and keys.
        between: What stands between the two products, in graph order: scale, mask, Softmax.
        context: The product of weights and values.
    """

    logits: ir.Node
    between: tuple[ir.Node, ...]
    context: ir.Node

    @property
    def operands(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Queries, keys and values, as the products read them."""
        queries, keys, values = *self.logits.inputs[:2], self.context.inputs[1]
        assert queries is not None and keys is not None and values is not None  # noqa: S101 - MatMul takes two inputs
        return queries, keys, values

    @property
    def packed(self) -> ir.Value | None:
        """The tensor that holds queries, keys and values, and that nothing else reads; `None` if there is none."""
        queries, keys, values = (moved_from(value, REARRANGES) for value in self.operands)
        if queries is not keys or queries is not values or queries.is_graph_output():
            return None
        readers = {id(node) for node in _moved_readers(queries)}
        return queries if readers == {id(self.logits), id(self.context)} else None


def find_attentions(model: ir.Model, transformer: Transformer) -> list[Attention]:
    """Returns the attentions of a graph in graph order; the operator Attention is none.

    Args:
        model: The graph, in topological order.
        transformer: Its encoder blocks; Q/DQ pairs that were inserted since are looked through.
    """
    nodes = list(model.graph)
    products: dict[int, dict[str, int]] = {}
    for index, node in enumerate(nodes):
        role = transformer.roles.get(node.name or "")
        if role is not None and role.is_product and node.op_type == "MatMul":
            products.setdefault(role.block, {})[role.part] = index
    return [
        Attention(nodes[at["logits"]], _between(nodes, at["logits"], at["context"]), nodes[at["context"]])
        for at in products.values()
        if len(at) == 2
    ]


def _between(nodes: list[ir.Node], first: int, last: int) -> tuple[ir.Node, ...]:
    """Returns the nodes that compute with the outputs of one node and that another one needs."""
    reached = set(nodes[first].outputs)
    behind = []
    for node in nodes[first + 1 : last]:
        if not reached.isdisjoint(value for value in node.inputs if value is not None):
            reached.update(node.outputs)
            behind.append(node)
    needed = {nodes[last].inputs[0]}
    kept = []
    for node in reversed(behind):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _moved_readers(value: ir.Value) -> Iterator[ir.Node]:
    """Yields what reads a tensor or a part of it, looking through nodes that only move values."""
    for node in (use.node for use in value.uses()):
        if moves_values(node) and value in moved_inputs(node):
            for output in node.outputs:
                yield from _moved_readers(output)
        else:
            yield node
