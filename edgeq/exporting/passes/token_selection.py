"""Moves the choice of tokens up, so that what works on each token by itself runs for the chosen ones alone. Exact.

A classifier reads the class token, and nothing else of what its last block computes: the MLP, the projection and the
queries of the other tokens are wasted work. Keys and values are needed of all.

Rules, by number:

1. A choice is a Gather or Slice of one axis with constant indices, of at most half of the axis.
2. It moves up through operators that compute each part of this axis by itself (`edgeq.exporting.graphs.axis_parts`).
   Where an operator has several inputs it moves to each that has the axis, and constants are cut.
3. It passes a tensor if all that read it want the same choice; nothing is computed twice.
4. It stays below operators that only move values where nothing above them gets less to do.
5. A choice that would not pass a MatMul or Gemm stays where it is.

A packed projection of queries, keys and values is needed of all tokens; of one that was split before
(`edgeq.exporting.passes.packed_projection`) this pass leaves the queries of the others out, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.axis_parts import Choice, choice_of, inputs_for
from edgeq.exporting.graphs.graph import constant, drop_unused, new_initializer, walk
from edgeq.exporting.graphs.moves import REARRANGES
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir

_LAYERS = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True)
class _Step:
    """An operator that a choice passes."""

    node: ir.Node
    choice: Choice
    inputs: dict[int, Choice]


def move_selections_up(model: ir.Model) -> RewriteReport:
    """Moves every choice of tokens as far up as it goes, in place.

    Tensors keep their names, but those that are passed hold the chosen tokens alone.

    Args:
        model: A cleaned graph with shapes.

    Returns:
        The names of the MatMul and Gemm nodes that compute fewer tokens than before.
    """
    done: list[str] = []
    while layers := _move_one(model):
        done += [name for name in layers if name not in done]
    drop_unused(model)
    return RewriteReport(tuple(done))


def _move_one(model: ir.Model) -> list[str]:
    """Moves what chooses the same of one tensor, and returns the layers that were passed."""
    for node in reversed(walked := list(walk(model))):
        choice = choice_of(node)
        if choice is None:
            continue
        steps = _steps(walked, node, choice)
        layers = [str(step.node.name) for step in steps.values() if step.node.op_type in _LAYERS]
        if layers:
            _apply(model, steps)
            _end(model, node, choice)
            return layers
    return []


# Rules 2 to 4 -------------------------------------------------------------------------------------------------------


def _steps(nodes: list[ir.Node], end: ir.Node, choice: Choice) -> dict[int, _Step]:
    """Returns, by the node's id and in graph order, the operators that a choice passes.

    Args:
        nodes: The graph's nodes, in order.
        end: What chooses.
        choice: What it chooses.
    """
    source = end.inputs[0]
    assert source is not None  # noqa: S101 - it is a Gather or Slice
    wanted = {(id(use.node), use.idx): choice for use in source.uses() if choice_of(use.node) == choice}
    passed: list[_Step] = []
    for node in reversed(nodes):
        uses = [(id(use.node), use.idx) for output in node.outputs for use in output.uses()]
        choices = {wanted.get(use) for use in uses}
        common = choices.pop() if len(choices) == 1 else None
        if common is None or any(output.is_graph_output() for output in node.outputs):
            continue
        inputs = inputs_for(node, common)
        if inputs is not None:
            passed.append(_Step(node, common, inputs))
            wanted.update({(id(node), index): needed for index, needed in inputs.items()})
    kept: dict[int, _Step] = {}
    for step in reversed(passed):
        producers = (_producer(step.node, index) for index in step.inputs)
        if step.node.op_type not in REARRANGES or any(id(producer) in kept for producer in producers):
            kept[id(step.node)] = step
    return kept


# Rewriting ----------------------------------------------------------------------------------------------------------


def _apply(model: ir.Model, steps: dict[int, _Step]) -> None:
    """Lets the operators compute the chosen parts alone; what they read from others is cut."""
    import onnx_ir as ir

    cuts: dict[tuple[int, Choice], ir.Value] = {}
    for step in steps.values():
        for index, choice in step.inputs.items():
            value = step.node.inputs[index]
            assert value is not None  # noqa: S101 - its shape was read
            if id(value.producer()) not in steps:
                if (id(value), choice) not in cuts:
                    cuts[id(value), choice] = _cut(model, value, choice)
                step.node.replace_input_with(index, cuts[id(value), choice])
        if step.node.op_type == "Reshape":
            _set_length(model, step)
        for output in step.node.outputs:
            assert output.shape is not None  # noqa: S101 - it was read
            output.shape = ir.Shape(_with_length(list(output.shape), step.choice))


def _cut(model: ir.Model, value: ir.Value, choice: Choice) -> ir.Value:
    """Returns the chosen parts of a tensor."""
    import onnx_ir as ir

    array, name = constant(value), f"{value.name}_selected"
    if array is not None:
        return new_initializer(model, name, np.take(array, choice.indices, choice.axis))
    first, last = choice.indices[0], choice.indices[-1]
    if choice.indices == tuple(range(first, last + 1)):
        bounds = {"start": first, "end": last + 1, "axis": choice.axis}
        numbers = [new_initializer(model, f"{name}_{key}", np.array([number])) for key, number in bounds.items()]
        node = ir.node("Slice", [value, *numbers], name=_free_name(model, f"{name}_slice"))
    else:
        indices = new_initializer(model, f"{name}_indices", np.array(choice.indices))
        node = ir.node("Gather", [value, indices], {"axis": choice.axis}, name=_free_name(model, f"{name}_gather"))
    result, producer = node.outputs[0], value.producer()
    assert value.shape is not None  # noqa: S101 - it was read
    result.name, result.type = f"{node.name}_output", value.type
    result.shape = ir.Shape(_with_length(list(value.shape), choice))
    if producer is None:
        model.graph.insert_before(next(iter(model.graph)), node)
    else:
        model.graph.insert_after(producer, node)
    return result


def _set_length(model: ir.Model, step: _Step) -> None:
    """Gives a Reshape the shape of its chosen parts."""
    node, output = step.node, step.node.outputs[0]
    shape = constant(node.inputs[1])
    assert shape is not None and output.shape is not None  # noqa: S101 - both were read
    # A zero copies the input's length, which may be the one that changes.
    pairs = zip(shape, output.shape, strict=True)
    known = [dim if number == 0 and isinstance(dim, int) else number for number, dim in pairs]
    known[step.choice.axis] = len(step.choice.indices)
    node.replace_input_with(1, new_initializer(model, f"{node.name}_shape", np.array(known, np.int64)))


def _end(model: ir.Model, node: ir.Node, choice: Choice) -> None:
    """Takes away what chose of a tensor that holds nothing else now."""
    import onnx_ir as ir

    source = node.inputs[0]
    assert source is not None  # noqa: S101 - it was read
    for end in [use.node for use in source.uses()]:
        result, index = end.outputs[0], constant(end.inputs[1])
        if end.op_type == "Gather" and index is not None and index.ndim == 0:
            axes = new_initializer(model, f"{end.name}_axes", np.array([choice.axis]))
            _replace(model, end, ir.node("Squeeze", [source, axes], name=_free_name(model, f"{end.name}_squeeze")))
        elif result.is_graph_output():
            _replace(model, end, ir.node("Identity", [source], name=_free_name(model, f"{end.name}_identity")))
        else:
            result.replace_all_uses_with(source)
            model.graph.remove(end, safe=True)


def _replace(model: ir.Model, old: ir.Node, new: ir.Node) -> None:
    """Puts a node in the place of another; the result keeps its name."""
    gone, result = old.outputs[0], new.outputs[0]
    result.type, result.shape, result.name, gone.name = gone.type, gone.shape, gone.name, f"{gone.name}_gone"
    model.graph.insert_after(old, new)
    gone.replace_all_uses_with(result, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)


def _with_length(dims: list[int | ir.SymbolicDim], choice: Choice) -> list[int | ir.SymbolicDim]:
    return [len(choice.indices) if axis == choice.axis else dim for axis, dim in enumerate(dims)]


def _free_name(model: ir.Model, name: str) -> str:
    taken = {node.name for node in model.graph}
    candidates = (name, *(f"{name}_{count}" for count in range(1, len(taken) + 2)))
    return next(each for each in candidates if each not in taken)


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()
