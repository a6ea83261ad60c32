"""`QuantPlan`: what precision each node gets and on which grid each tensor lies, decided before a file is written."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeq.errors import MismatchError
from edgeq.exporting.graphs.graph import data_inputs
from edgeq.exporting.graphs.moves import ends_of, moved_inputs, moves_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.planning.selection import NodeChoice, Topology, layers_before_functions

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.targets import Rules

MAX_RANGE_RATIO = 8.0
"""Beyond this ratio one shared grid leaves the smaller input of a Concat less than five of its eight bits."""

_RESHAPES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorGrid:
    """The integer grid of a tensor: `real = (integer - zero_point) * scale`.

    Attributes:
        scale: Positive step.
        zero_point: The integer that stands for 0.0.
        dtype: `uint8` or `int8`.
    """

    scale: float
    zero_point: int
    dtype: str


@dataclass(frozen=True)
class QuantPlan:
    """Precision by node and grid by tensor.

    Attributes:
        nodes: The choice for every node that could run in INT8.
        tensors: Tensor name -> its grid; each gets exactly one Q/DQ pair.
        notes: What a user should know, for example mixed ranges that were split.
        tied: Tensor name -> grid of the tensors without a pair that lie on the grid of one with a pair.
    """

    nodes: tuple[NodeChoice, ...]
    tensors: Mapping[str, TensorGrid]
    notes: tuple[str, ...] = ()
    tied: Mapping[str, TensorGrid] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest keeps: how many nodes run in INT8, and which stay in float for what reason."""
        return {
            "int8_nodes": sum(choice.precision == "int8" for choice in self.nodes),
            "float_nodes": {choice.name: choice.reason for choice in self.nodes if choice.precision == "float"},
            "quantized_tensors": len(self.tensors),
            "notes": list(self.notes),
        }


def make_plan(model: ir.Model, topology: Topology, ranges: Ranges, rules: Rules) -> QuantPlan:
    """Returns the plan for a graph, given its ranges.

    Tensors that operators only move share one grid. The inputs of a Concat share one unless their ranges differ more
    than `MAX_RANGE_RATIO` times: one grid for boxes in pixels and scores in 0..1 would round every score to zero. Then
    each keeps its own, and where the joined tensor feeds an INT8 layer that layer goes back to float.

    Raises:
        MismatchError: a tensor has no range.
    """
    notes: list[str] = []
    nodes, tensors = _split_mixed_ranges(model, topology, ranges, notes)
    if rules.output_pairs == "fused" and (slow := layers_before_functions(model, Topology(nodes, tensors))):
        notes.append(
            f"{len(slow)} of the layers in int8 are followed by a function other than ReLU ({slow[0]}, ...): OpenVINO "
            "runs them in INT8, ONNX Runtime in float between conversions, slower than fp32; for it take --target "
            "x86-ort"
        )
    grids: dict[str, TensorGrid] = {}
    for members in tie(model, tensors, ranges):
        grids.update(dict.fromkeys(members, _grid(model, members, ranges, rules)))
    for note in notes:
        _log.warning(note)
    pairs = _without_repeats(model, tensors) if rules.pairs_before_moves else _read_by_int8(model, nodes, tensors)
    tied = {name: grid for name, grid in grids.items() if name not in pairs}
    return QuantPlan(nodes, {name: grids[name] for name in pairs}, tuple(notes), tied)


def _without_repeats(model: ir.Model, tensors: tuple[str, ...]) -> tuple[str, ...]:
    """Leaves out reshaped tensors that linear layers alone read, where what was reshaped has a pair on the same grid.

    ONNX Runtime looks for a layer's pair behind a Reshape, and OpenVINO would compute both: a ViT took 1.1 of the time.
    """
    planned = set(tensors)
    repeated: set[str] = set()

    def is_linear(reader: ir.Node) -> bool:
        return reader.op_type in ("MatMul", "Gemm") or str(reader.outputs[0].name) in repeated

    for node in reversed(model.graph):
        source = node.inputs[0] if node.op_type in _RESHAPES else None
        if source is not None and source.name in planned and all(is_linear(use.node) for use in node.outputs[0].uses()):
            repeated.add(str(node.outputs[0].name))
    return tuple(name for name in tensors if name not in repeated)


def _read_by_int8(model: ir.Model, nodes: tuple[NodeChoice, ...], tensors: tuple[str, ...]) -> tuple[str, ...]:
    int8 = {choice.name for choice in nodes if choice.precision == "int8"}
    read = {value.name for node in model.graph if node.name in int8 for value in data_inputs(node)}
    # TensorRT's fused attention wants a pair directly behind its second product, too.
    roles = find_transformer(model).roles
    for node in model.graph:
        if node.name in int8 and (role := roles.get(node.name)) is not None and role.part == "context":
            read.add(node.outputs[0].name)
    return tuple(name for name in tensors if name in read)


def _grid(model: ir.Model, members: list[str], ranges: Ranges, rules: Rules) -> TensorGrid:
    known = [name for name in members if name in ranges.tensors]
    if not known:
        raise MismatchError(
            f"the ranges hold no interval for tensor {members[0]!r}; they were collected for another model or target, "
            "run `edgeq calibrate` again"
        )
    constants = [ends for name in members if (ends := ends_of(model.graph.initializers.get(name))) is not None]
    intervals = [*(ranges.interval(name) for name in known), *constants]
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    if rules.activation_dtype == "uint8" and low >= 0:
        return TensorGrid(_positive(high / 255), 0, "uint8")
    if rules.symmetric_activations:
        thresholds = [*(ranges.threshold(name) for name in known), *(max(high, -low) for low, high in constants)]
        step = _positive(max(thresholds) / 127)
        # 128 as zero point: the signed grid in unsigned clothes. OpenVINO sees int8, ONNX Runtime its fast U8 kernels.
        return TensorGrid(step, 128 if rules.activation_dtype == "uint8" else 0, rules.activation_dtype)
    step = _positive((high - low) / 255)
    zero = min(255, max(0, round(-low / step)))
    return TensorGrid(step, zero if rules.activation_dtype == "uint8" else zero - 128, rules.activation_dtype)


def _positive(step: float) -> float:
    # A tensor that is zero on all calibration images still needs a valid grid.
    return step if step > 1e-30 else 1.0


def tie(model: ir.Model, tensors: Collection[str], ranges: Ranges) -> list[list[str]]:
    """Returns groups of tensors that hold the same values or must lie on one grid; each holds a planned tensor.

    Tensors without a pair belong to a group too: where a pass has put new tensors before an observed one, its range is
    theirs. So do constants that are moved or joined with others: their range is that of their values.
    """
    values = [*model.graph.inputs, *(output for node in model.graph for output in node.outputs)]
    parent = {str(value.name): str(value.name) for value in values}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in model.graph:
        if not moves_values(node):
            continue
        joins = node.op_type == "Concat"
        if joins and (node.outputs[0].name not in tensors or range_ratio(node, ranges) > MAX_RANGE_RATIO):
            continue
        first, *others = (str(value.name) for value in (*moved_inputs(node), *node.outputs))
        for name in (first, *others):
            parent.setdefault(name, name)  # a constant
            parent[find(name)] = find(first)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(find(name), []).append(name)
    planned = set(tensors)
    return [members for members in groups.values() if planned.intersection(members)]


def range_ratio(concat: ir.Node, ranges: Ranges) -> float:
    """Returns how many times the widest known input range of a Concat is as wide as the narrowest; at least 1.

    A constant's range is that of its values; one that is all zeros goes with every other.
    """
    widths = []
    for value in moved_inputs(concat):
        source = _moved_from(value)
        if source.name in ranges.tensors:
            low, high = ranges.interval(source.name)
            widths.append(max(high, -low))
        elif (ends := ends_of(source)) is not None and any(ends):
            widths.append(max(ends[1], -ends[0]))
    return max(widths) / max(min(widths), 1e-30) if len(widths) > 1 and max(widths) > 0 else 1.0


def _moved_from(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and moves_values(producer) and producer.op_type != "Concat":
        value = moved_inputs(producer)[0]
        producer = value.producer()
    return value


def _split_mixed_ranges(
    model: ir.Model, topology: Topology, ranges: Ranges, notes: list[str]
) -> tuple[tuple[NodeChoice, ...], tuple[str, ...]]:
    nodes = {choice.name: choice for choice in topology.nodes}
    dropped: set[str] = set()
    for node in model.graph:
        joined = node.outputs[0].name
        if node.op_type != "Concat" or joined not in topology.tensors:
            continue
        ratio = range_ratio(node, ranges)
        if ratio <= MAX_RANGE_RATIO:
            continue
        readers = [use.node for use in node.outputs[0].uses() if use.node.name in topology.int8_nodes]
        for reader in readers:
            name = str(reader.name)
            nodes[name] = NodeChoice(name, reader.op_type, "float", f"reads {joined!r}, which mixes ranges")
        dropped.add(str(joined))
        named = ", ".join(str(reader.name) for reader in readers) or "nothing"
        notes.append(
            f"mixed ranges: the inputs of {node.name} differ {ratio:.0f} times; each keeps its own grid, the joined "
            f"tensor {joined!r} stays in float, and so does what reads it: {named}"
        )
    return tuple(nodes.values()), tuple(name for name in topology.tensors if name not in dropped)
