"""Grids of moved tensors, narrowed to what they can hold, for engines whose pairs stand behind what moves.

Everything that is moved and joined with each other lies on one grid, as wide as the widest of it: where channels are
shuffled, that are the tensors of a whole stage. A pair behind the moves rounds floats, so its grid only has to hold
what comes from upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeq.calibrators.grid import Grid, Range
from edgeq.exporting.graphs.moves import ends_of, moved_inputs, moves_values, sources_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges


def narrowed_grids(model: ir.Model, grids: Mapping[str, Grid], ranges: Ranges) -> dict[str, Grid]:
    """Returns the grids of moved tensors that are rounded nowhere else between their computation and their reader.

    Others keep the grid that they share: rounding on it twice changes nothing. So does a tensor where the range of
    something upstream is not known.

    Args:
        model: The float graph.
        grids: Name of a tensor with a pair -> its grid.
        ranges: The ranges that calibration saw.
    """
    found = {}
    for node in filter(moves_values, model.graph):
        for value in node.outputs:
            grid = grids.get(str(value.name))
            if grid is None or any(moves_values(use.node) for use in value.uses()):
                continue
            upstream = _upstream(node)
            if not grids.keys().isdisjoint(str(each.name) for each in upstream):
                continue
            computed = sources_of(value)
            known = [each for each in (_range(source, ranges) for source in computed) if each is not None]
            if known and len(known) == len(computed):
                low, high = min(each.low for each in known), max(each.high for each in known)
                narrowed = Grid.of(low, high, max(each.threshold for each in known), grid.scheme)
                if narrowed.scale < grid.scale:  # what was always zero has the range 0..1
                    found[str(value.name)] = narrowed
    return found


def _upstream(node: ir.Node) -> list[ir.Value]:
    """Returns the tensors whose values a node moves: its inputs, and those of the nodes that moved them before."""
    found: dict[int, ir.Value] = {}
    waiting = moved_inputs(node)
    while waiting:
        value = waiting.pop()
        if id(value) in found:
            continue
        found[id(value)] = value
        producer = value.producer()
        if producer is not None and moves_values(producer):
            waiting += moved_inputs(producer)
    return list(found.values())


def _range(source: ir.Value, ranges: Ranges) -> Range | None:
    """Returns the range of a tensor or of a constant's values, `None` if it is not known."""
    if (ends := ends_of(source)) is not None:
        return Range(*ends, max(ends[1], -ends[0]))
    return ranges.tensors.get(str(source.name))
