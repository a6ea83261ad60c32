"""Keeps in float what ranges do not suffice for: those of a quantized file are the ones that its tool wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import data_inputs
from edgeq.exporting.planning.keep import Kept, VitPlan, resolve_keep
from edgeq.exporting.planning.plan import tensors_by_grid
from edgeq.exporting.planning.selection import activation_behind, select_layers

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.targets import Rules

_REASON = "the scales of the file, which has none for it"


def keep_without_ranges(model: ir.Model, rules: Rules, ranges: Ranges, kept: Kept | None, vit_plan: VitPlan) -> Kept:
    """Returns what stays in float, so that every layer in INT8 reads and writes tensors that have ranges.

    Args:
        model: The float graph, as the target's writer takes it.
        rules: The target's rules.
        ranges: The ranges that there are.
        kept: What stays in float anyway; by default what `vit_plan` keeps.
        vit_plan: What of a transformer runs in INT8.
    """
    kept = resolve_keep(model, vit_plan=vit_plan) if kept is None else kept
    widths = {name: found.width for name, found in ranges.tensors.items()}
    lost: list[str] = []
    while True:
        selection = select_layers(model, rules, Kept({**kept.nodes, _REASON: tuple(lost)}), vit_plan)
        groups = tensors_by_grid(model, selection.tensors, widths)
        missing = {name for members in groups if not ranges.tensors.keys() & members for name in members}
        further = [
            str(node.name)
            for node in model.graph
            if node.name in selection.quantized
            and missing.intersection(str(value.name) for value in (*data_inputs(node), activation_behind(node)))
        ]
        if not further:
            return Kept({**kept.nodes, _REASON: tuple(lost)}) if lost else kept
        lost += further
