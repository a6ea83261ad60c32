"""Brings a graph into the form that all other passes expect. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import drop_unused, fold_constants, infer_shapes
from edgeq.exporting.passes.bypass import bypass_identities
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def drop_constant_inputs(model: ir.Model) -> RewriteReport:
    """Makes inputs that have a value constants, in place: files before IR version 4 list every weight as an input."""
    import onnx_ir.passes.common as passes

    names = tuple(str(value.name) for value in model.graph.inputs if value.is_initializer())
    passes.RemoveInitializersFromInputsPass()(model)
    return RewriteReport(names)


def clean(model: ir.Model) -> RewriteReport:
    """Brings a graph into the form that all passes expect, in place.

    1. Functions are inlined, what is computed from constants alone is a constant, and constants are initializers.
    2. Identity and Dropout nodes and everything unused are gone, outputs that no node wants among it, and so is
       documentation: an exporter's stack traces name the folders of the machine it ran on.
    3. Every node and value has a name of its own, and shapes are inferred.
    """
    import onnx_ir as ir
    import onnx_ir.passes.common as passes

    passes.InlinePass()(model)
    fold_constants(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    bypass_identities(model)
    drop_unused(model)
    ir.passes.Sequential(
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.TopologicalSortPass(),
    )(model)
    _drop_unnamed_outputs(model)
    passes.NameFixPass()(model)
    infer_shapes(model)
    return RewriteReport()


def _drop_unnamed_outputs(model: ir.Model) -> None:
    """Removes the last outputs of nodes that have no name: given one, an engine would compute them."""
    for node in model.graph.all_nodes():
        count = len(node.outputs)
        while count > 1 and not (node.outputs[count - 1].name or node.outputs[count - 1].uses()):
            count -= 1
        node.resize_outputs(count)
