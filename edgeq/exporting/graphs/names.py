"""Names: those that a graph has stay what they are, whatever a change of ours calls its own tensors and nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    import onnx_ir as ir

P = ParamSpec("P")
R = TypeVar("R")


class _Named(Protocol):
    name: str | None


def keeps_names(change: Callable[Concatenate[ir.Model, P], R]) -> Callable[Concatenate[ir.Model, P], R]:
    """Returns a change of a graph, in place, whose new tensors and nodes have names that no other has.

    The change itself may call them as it likes. What was there keeps its name, and outputs do; then what took over the
    name of something else; of the rest, a name that is taken gets a number. Tensors of subgraphs count, because a
    subgraph may read every tensor around it.
    """

    @functools.wraps(change)
    def changing(model: ir.Model, /, *args: P.args, **kwargs: P.kwargs) -> R:
        graph = model.graph
        # The pairs keep the objects alive, so that no new one gets the identity of one that is gone.
        values = [(value, value.name) for value in _values(model)]
        nodes = [(node, node.name) for node in graph]
        result = change(model, *args, **kwargs)
        if model.graph is graph:  # otherwise it was read anew, and a file has no name twice
            outputs = {id(value) for value in graph.outputs}
            _number(_values(model), {id(value): name for value, name in values}, outputs)
            _number(graph, {id(node): name for node, name in nodes})
        return result

    return changing


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Yields the tensors of a graph and its subgraphs; none twice but those that are input and initializer."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield from node.outputs


def _number(found: Iterable[_Named], before: Mapping[int, str | None], first: Container[int] = ()) -> None:
    """Gives names of their own to those that are new, or renamed.

    Args:
        found: What there is.
        before: Identity -> its name before the change.
        first: Identities of those that choose before the others.
    """
    changed: dict[int, _Named] = {}
    taken = set()
    for each in found:
        if before.get(id(each)) == each.name:
            taken.add(each.name)
        else:
            changed[id(each)] = each
    known = set(before.values())
    for each in sorted(changed.values(), key=lambda one: (id(one) not in first, one.name not in known)):
        name, count = each.name, 0
        while each.name in taken and name:  # an output that nobody wants has none
            count += 1
            if f"{name}_{count}" not in taken:
                each.name = f"{name}_{count}"
        taken.add(each.name)
