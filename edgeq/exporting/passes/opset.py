"""Brings a graph to another ONNX opset, one opset at a time. Exact up to float rounding.

A rule takes the nodes of one operator across the one opset that changed it: `raising` has those for the way up,
`lowering` those for the way down. What no rule is for means the same on both sides. Behind the last step every node is
compared with the declaration of its operator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import fold_constants, infer_shapes, opset_of
from edgeq.exporting.passes.declared import is_first, omit_meaningless, require_declared
from edgeq.exporting.passes.lowering import LOWERING
from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, replace
from edgeq.exporting.passes.raising import RAISING
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_IR_VERSION = 10
"""The file version that a model of a newer one gets: what torch writes, and old engines read."""

_LOWEST_OF_TARGETS, _HIGHEST_OF_TARGETS = 17, 19

_FORMS = frozenset({("Pad", 18), ("Pad", 19), ("Resize", 18), ("Resize", 19)})
"""Changes between the opsets of the targets by which an operator says the same with other constants or tensors."""

_ASKS_FOR_RANKS = 13
"""The opset whose rules need the rank of what they change, which a Reshape to a computed shape hides."""

_SHAPE_ARITHMETIC = frozenset(
    {"Add", "Cast", "Ceil", "Concat", "Div", "Floor", "Gather", "Mul", "Shape", "Size", "Slice", "Squeeze", "Sub"}
    | {"Unsqueeze"}
)


def raise_opset(model: ir.Model, opset: int) -> RewriteReport:
    """Brings a graph of a lower opset up to the given one, in place, and its functions to the same as the graph.

    Args:
        model: A graph as it was read; constants may be Constant nodes.
        opset: The wanted opset.

    Raises:
        ModelError: a node has no equivalent in that opset.
    """
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    found = [body.opset_imports.get("", 0) for body in bodies]
    highest = max(opset, *found) if any(found) else opset
    if min(each for each in (*found, highest) if each) == highest:
        return RewriteReport()
    infer_shapes(model)
    done: list[str] = []
    for version in range(min(each for each in found if each) + 1, highest + 1):
        if version == _ASKS_FOR_RANKS:
            _compute_shapes(model)
        behind = [body for body in bodies if 0 < body.opset_imports.get("", 0) < version]
        done += _step(model, behind, RAISING, changed_in=version, to=version)
    _finish(model, highest)
    return RewriteReport(tuple(done))


def lower_opset(model: ir.Model, opset: int) -> RewriteReport:
    """Brings a graph of a higher opset down to the given one, in place.

    For the opsets of the targets, what the lowest of these lacks is written out for all of them, where it can be: one
    calibration serves all files.

    Args:
        model: A cleaned graph with shapes.
        opset: The wanted opset.

    Raises:
        ModelError: a node has no equivalent in that opset.
    """
    done: list[str] = []
    before, least = opset_of(model), opset
    if opset <= _HIGHEST_OF_TARGETS:
        least = min(opset, _LOWEST_OF_TARGETS)
    for version in range(max(before, opset), least, -1):
        needed = version > opset
        rules = LOWERING if needed else {key: LOWERING[key] for key in LOWERING if is_first(*key) or key in _FORMS}
        done += _step(model, [model.graph], rules, changed_in=version, to=max(version - 1, opset), needed=needed)
    if before > opset:
        _finish(model, opset)
    return RewriteReport(tuple(done))


def _step(
    model: ir.Model,
    bodies: list[ir.Graph | ir.Function],
    rules: dict[tuple[str, int], Rule],
    *,
    changed_in: int,
    to: int,
    needed: bool = True,
) -> Iterator[str]:
    """Applies the rules of one opset and yields the names of the nodes that they changed.

    If they are not needed, what refuses to change stays as it is.
    """
    import onnx_ir as ir

    changed, taken = False, _names(model)
    for body in bodies:
        body.opset_imports[""] = to
        for node in list(ir.traversal.RecursiveGraphIterator(body)):
            rule = rules.get((node.op_type, changed_in)) if node.domain == "" else None
            if rule is None:
                continue
            with contextlib.nullcontext() if needed else contextlib.suppress(ModelError):
                _apply(rule, node, taken)
                changed = True
                yield str(node.name)
    if changed:
        infer_shapes(model)


def _apply(rule: Rule, node: ir.Node, taken: set[str]) -> None:
    import onnx_ir as ir

    builder = NodeBuilder(node, taken)
    results = rule(node, builder)
    if results is not None:
        replace(node, builder, [results] if isinstance(results, ir.Value) else results)
    elif builder.nodes and node.graph is not None:
        node.graph.insert_before(node, builder.nodes)


def _compute_shapes(model: ir.Model) -> None:
    """Computes, in place, the shapes that depend on constants alone.

    No other operators: what computes constants knows the newest definition of some of them only.
    """
    fold_constants(model, should_fold=lambda node: None if node.op_type in _SHAPE_ARITHMETIC else False)
    infer_shapes(model)


def _names(model: ir.Model) -> set[str]:
    import onnx_ir as ir

    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    values = [value.name for node in nodes for value in (*node.inputs, *node.outputs) if value is not None]
    return {str(name) for name in (*values, *(value.name for value in model.graph.inputs))}


def _finish(model: ir.Model, opset: int) -> None:
    from onnx import helper

    omit_meaningless(model, opset)
    require_declared(model, opset)
    least: int = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    model.ir_version = max(least, min(model.ir_version, _IR_VERSION))
