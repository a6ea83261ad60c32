"""Inputs of a Concat whose ranges are too different for the one grid that a joined tensor has.

Boxes in pixels and scores in 0..1 on one grid would round every score to zero. Such a tensor gets no pair, its inputs
keep grids of their own, and what reads it computes in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.moves import ends_of, moved_inputs, moves_values, sources_of
from edgeq.exporting.planning.selection import Selection
from edgeq.schemes import FLOAT

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges

MAX_RANGE_RATIO = 8.0
"""Beyond this ratio one shared grid leaves the smaller input of a Concat less than five of its eight bits."""


def range_ratio(concat: ir.Node, widths: Mapping[str, float]) -> float:
    """Returns how many times the widest known input range of a Concat is as wide as the narrowest; at least 1.

    An input that is moved or joined itself is as wide as the widest tensor that its values come from. A constant's
    range is that of its values; one that is all zeros goes with every other.
    """
    known = [width for value in moved_inputs(concat) if (width := _width(value, widths)) is not None]
    return max(known) / max(min(known), 1e-30) if len(known) > 1 and max(known) > 0 else 1.0


def _width(value: ir.Value, widths: Mapping[str, float]) -> float | None:
    """Returns the largest magnitude of what becomes a tensor by moves alone; `None` if nothing is known of it."""
    known = []
    for source in sources_of(value):
        if (name := str(source.name)) in widths:
            known.append(widths[name])
        elif (ends := ends_of(source)) is not None and any(ends):
            known.append(max(ends[1], -ends[0]))
    return max(known, default=None)


def _moved_on(value: ir.Value) -> tuple[set[str], list[ir.Node]]:
    """Returns the names of the tensors that hold values of a tensor, itself among them, and the nodes that read them.

    Nodes that only move values are looked through, and are not among the readers.
    """
    names: set[str] = set()
    readers: list[ir.Node] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if str(one.name) in names:
            continue
        names.add(str(one.name))
        for reader in (use.node for use in one.uses()):
            if moves_values(reader) and one in moved_inputs(reader):
                waiting += reader.outputs
            elif reader not in readers:
                readers.append(reader)
    return names, readers


def readers_of_mixed_ranges(model: ir.Model, selection: Selection, ranges: Ranges) -> dict[str, str]:
    """Returns name of a layer -> why it cannot run in INT8, for those that read inputs which do not go on one grid.

    Args:
        model: The float graph.
        selection: What is to be quantized.
        ranges: The ranges of its tensors.
    """
    found = (each.readers for each in _mixed_ranges(model, selection, known_widths(ranges)))
    return {name: reason for readers in found for name, reason in readers.items()}


def known_widths(ranges: Ranges) -> dict[str, float]:
    """Returns tensor name -> largest magnitude of its range; none for what was always zero."""
    return {name: found.width for name, found in ranges.tensors.items() if name not in ranges.zeros}


@dataclass(frozen=True)
class _MixedRanges:
    """A Concat whose inputs do not go on one grid.

    Attributes:
        name: Name of the node.
        joined: Name of its output.
        ratio: How many times its widest input is as wide as the narrowest.
        moved: Names of the tensors that hold its values.
        readers: Name of a quantized layer that reads them -> why it cannot stay one.
    """

    name: str
    joined: str
    ratio: float
    moved: frozenset[str]
    readers: Mapping[str, str]


def _mixed_ranges(model: ir.Model, selection: Selection, widths: Mapping[str, float]) -> list[_MixedRanges]:
    quantized = selection.quantized
    found = []
    for node in model.graph:
        joined = str(node.outputs[0].name)
        if node.op_type != "Concat" or joined not in selection.tensors:
            continue
        if (ratio := range_ratio(node, widths)) > MAX_RANGE_RATIO:
            moved, nodes = _moved_on(node.outputs[0])
            readers = [str(reader.name) for reader in nodes if reader.name in quantized]
            reasons = dict.fromkeys(readers, f"reads {joined!r}, which mixes ranges")
            found.append(_MixedRanges(str(node.name), joined, ratio, frozenset(moved), reasons))
    return found


def split_mixed_ranges(
    model: ir.Model, selection: Selection, widths: Mapping[str, float], notes: list[str]
) -> Selection:
    """Returns the selection without joined tensors whose inputs do not go on one grid, and without their readers.

    If no other layer is left in INT8, no tensor has a grid. Otherwise all others keep theirs, also those that nothing
    reads in INT8 any more: TensorRT's calibrated engines run a layer in INT8 only if its output has a range.

    Args:
        model: The float graph.
        selection: What is to be quantized.
        widths: Tensor name -> largest magnitude of its range.
        notes: Gets a line for each such tensor.
    """
    in_float: dict[str, str] = {}
    dropped: set[str] = set()
    for each in _mixed_ranges(model, selection, widths):
        in_float |= each.readers
        dropped |= each.moved
        notes.append(
            f"mixed ranges: the inputs of {each.name} differ {each.ratio:.0f} times; each keeps its own grid, the "
            f"joined tensor {each.joined!r} stays in float, and so does what reads it: "
            f"{', '.join(each.readers) or 'nothing'}"
        )
    decisions = tuple(
        replace(each, scheme=FLOAT, reason=in_float[each.name]) if each.name in in_float else each
        for each in selection.decisions
    )
    is_float = all(decision.is_float for decision in decisions)
    tensors = () if is_float else tuple(name for name in selection.tensors if name not in dropped)
    return replace(selection, decisions=decisions, tensors=tensors)
