"""Two graphs as one: what the first gives, the second takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.errors import MismatchError
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir


@keeps_names
def put_before(model: ir.Model, first: ir.Model, fed: Mapping[str, str]) -> None:
    """Puts another graph before a graph, in place; its inputs come first among the model's.

    Args:
        model: The graph that takes outputs; its outputs remain.
        first: The graph that gives them; it is used up.
        fed: Output of `first` -> input of `model`.

    Raises:
        MismatchError: one of them has no such output or input, or they are of different versions of an operator set.
    """
    given = {value.name: value for value in first.graph.outputs}
    taken = {value.name: value for value in model.graph.inputs}
    for output, name in fed.items():
        if output not in given or name not in taken:
            raise MismatchError(
                f"cannot feed {output!r} to {name!r}: only {sorted(map(str, given))} go to {sorted(map(str, taken))}"
            )
    for domain, version in first.graph.opset_imports.items():
        if model.graph.opset_imports.setdefault(domain, version) != version:
            raise MismatchError(
                f"parts are of opset {version} and {model.graph.opset_imports[domain]}; export the model again"
            )
    for output, name in fed.items():
        taken[name].replace_all_uses_with(given[output])
    inputs = [value for value in model.graph.inputs if value.name not in fed.values()]
    nodes, weights = list(first.graph), dict(first.graph.initializers)
    own = list(first.graph.inputs)
    for values in (first.graph.outputs, first.graph.inputs, first.graph.initializers):
        values.clear()
    first.graph.remove(nodes)
    model.graph.inputs.clear()
    model.graph.inputs.extend([*own, *inputs])
    for name, value in weights.items():
        if name in model.graph.initializers or any(name == each.name for each in inputs):
            value.name = f"{name}_of_first"
        model.graph.register_initializer(value)
    model.graph.insert_before(model.graph[0], nodes)
