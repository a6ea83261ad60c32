"""Brings a graph into the form that all other passes expect. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import infer_shapes, walk
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def clean(model: ir.Model) -> RewriteReport:
    """Brings a graph into the form that all passes expect, in place.

    1. Functions are inlined, what is computed from constants alone is a constant, constants are initializers, and
       initializers are not inputs.
    2. Identity and Dropout nodes and everything unused are gone, and so is documentation: an exporter's stack traces
       name the folders of the machine it ran on.
    3. Every node and value has a name of its own, and shapes are inferred.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import fold_constants

    _bypass_dropout(model)
    passes.InlinePass()(model)
    fold_constants(model)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveInitializersFromInputsPass(),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    )(model)
    infer_shapes(model)
    return RewriteReport()


def _bypass_dropout(model: ir.Model) -> None:
    for node in walk(model):
        if node.op_type == "Dropout" and node.inputs[0] is not None:
            node.outputs[0].replace_all_uses_with(node.inputs[0], replace_graph_outputs=True)
