"""Reading and changing a traced torch graph: operators by name, arguments by name, constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import fx


def name_of(node: Any) -> str:
    """Returns an ATen operator's name without its overload; an empty string for everything else."""
    schema = getattr(getattr(node, "target", None), "_schema", None)
    return str(schema.name) if schema is not None else ""


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Returns all arguments by name, defaults included."""
    schema = node.target._schema  # type: ignore[union-attr]  # only called on ATen operators
    found = {argument.name: argument.default_value for argument in schema.arguments}
    found.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    found.update(node.kwargs)
    return found


def constant_of(graph_module: fx.GraphModule, node: Any) -> torch.Tensor | None:
    """Returns the tensor that a node stands for; `None` where that is none, or computed."""
    if getattr(node, "op", None) != "get_attr":
        return None
    owner, _, leaf = node.target.rpartition(".")
    value: torch.Tensor = getattr(graph_module.get_submodule(owner), leaf)
    return value.detach()


def set_argument(graph_module: fx.GraphModule, node: fx.Node, name: str, value: torch.Tensor) -> None:
    """Gives a node a constant of its own; another node may read the old one."""
    import torch

    index = 0
    while hasattr(graph_module, f"edgeq_{name}_{index}"):
        index += 1
    target = f"edgeq_{name}_{index}"
    graph_module.register_buffer(target, value.clone())
    with graph_module.graph.inserting_before(node):
        constant = graph_module.graph.get_attr(target)
    constant.meta["val"] = torch.empty_like(value, device="meta")
    schema = node.target._schema  # type: ignore[union-attr]  # only called on ATen operators
    position = [argument.name for argument in schema.arguments].index(name)
    arguments = list(node.args)
    while len(arguments) <= position:
        arguments.append(schema.arguments[len(arguments)].default_value)
    arguments[position] = constant
    node.args = tuple(arguments)
