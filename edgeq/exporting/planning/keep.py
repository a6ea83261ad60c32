"""What stays in float because a user or a plan for transformers says so, resolved into names of nodes.

An export resolves it once, before anything is planned: planners and writers get names, and no patterns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from edgeq.errors import InputError
from edgeq.exporting.graphs.transformer import Transformer, find_transformer, matching_nodes
from edgeq.exporting.passes.packed_projection import whole_name

if TYPE_CHECKING:
    import onnx_ir as ir

VitPlan = Literal["fast", "balanced", "safe"]

SAFE_FLOATS = ("vit.fc2", "vit.projection")
"""What the plan `safe` keeps besides all that `balanced` does: the layers that write into the residual stream."""


@dataclass(frozen=True)
class Kept:
    """What stays in float, whatever a target could run.

    Attributes:
        nodes: What was asked for -> names of the nodes that it means, the plan's before the user's. One without names
            is meant for another graph.
    """

    nodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def reason(self, node: ir.Node) -> str | None:
        """Returns why a node stays in float, `None` if it need not; pieces of a split layer are meant by its name."""
        return self._reasons.get(node.name or "") or self._reasons.get(whole_name(node))

    @cached_property
    def _reasons(self) -> dict[str, str]:
        return {name: kept_by(pattern) for pattern, names in self.nodes.items() for name in names}


def kept_by(pattern: str) -> str:
    """Returns the reason that manifests give for what a pattern keeps in float."""
    return f"kept by {pattern!r}"


def resolve_keep(
    model: ir.Model, keep: Sequence[str] = (), vit_plan: VitPlan = "balanced", *, unknown_to_graph: bool = False
) -> Kept:
    """Returns what stays in float of a graph.

    What a plan for transformers adds is in it (rule 8 of `edgeq.exporting.planning.selection`), but for products of
    activations: each format decides about them by what its engines have.

    Args:
        model: The float graph, as the target's files are made from it.
        keep: Names, regular expressions, operator types, or parts of a transformer
            (`edgeq.exporting.graphs.transformer.matching_nodes`).
        vit_plan: The plan for transformers; a model without attention has none.
        unknown_to_graph: Whether an entry may match nothing, because files of another graph are written alone.

    Raises:
        InputError: an entry matches nothing or is not a regular expression.
    """
    transformer = find_transformer(model)
    nodes: dict[str, tuple[str, ...]] = {}
    planned = _kept_by_vit_plan(model, transformer, vit_plan)
    for pattern in (*planned, *keep):
        names = tuple(str(node.name) for node in _nodes_matching(model, pattern, transformer))
        if not names and pattern in planned and pattern not in keep:
            continue  # a transformer need not have every part that the plan keeps, such as an MLP
        if not names and not unknown_to_graph:
            examples = ", ".join(str(node.name) for node in list(model.graph)[:5])
            raise InputError(f"`keep` {pattern!r}: matches no node; names look like {examples}")
        nodes[pattern] = names
    return Kept(nodes)


def embeds_patches(node: ir.Node) -> bool:
    """Returns whether a convolution cuts an image into patches: its kernels do not overlap."""
    if node.op_type != "Conv" or "strides" not in node.attributes or "kernel_shape" not in node.attributes:
        return False
    strides = list(node.attributes["strides"].as_ints())
    return strides == list(node.attributes["kernel_shape"].as_ints()) and max(strides) > 1


def _kept_by_vit_plan(model: ir.Model, transformer: Transformer, vit_plan: VitPlan) -> tuple[str, ...]:
    if not transformer.blocks or vit_plan == "fast":
        return ()
    embeddings = tuple(re.escape(whole_name(node)) for node in model.graph if embeds_patches(node))
    return (*embeddings, *SAFE_FLOATS) if vit_plan == "safe" else embeddings


def _nodes_matching(model: ir.Model, pattern: str, transformer: Transformer) -> list[ir.Node]:
    """Returns the nodes that an entry means: by name, by regular expression over it, or by operator type."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`keep` {pattern!r}: is not a regular expression ({error})") from None
    matched = matching_nodes(model, pattern, transformer)
    if matched is not None:
        return matched
    return [
        node for node in model.graph
        if pattern in (node.op_type, whole_name(node)) or expression.fullmatch(whole_name(node))
    ]  # fmt: skip
