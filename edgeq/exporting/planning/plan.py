"""`QuantPlan`: how each layer is computed, on which grid each tensor lies, and the integers of each weight and bias.

It is decided before a file is written; writers render it and decide nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeq.calibrators.grid import Grid, Range
from edgeq.errors import MismatchError
from edgeq.exporting.graphs.data_flow import is_float
from edgeq.exporting.graphs.graph import constant, data_inputs, multiplies_activations, weight_of
from edgeq.exporting.graphs.moves import ends_of, moved_from, moved_inputs, moves_values
from edgeq.exporting.graphs.weights import release
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.mixed_ranges import (
    MAX_RANGE_RATIO,
    known_widths,
    range_ratio,
    split_mixed_ranges,
)
from edgeq.exporting.planning.narrow_grids import narrowed_grids
from edgeq.exporting.planning.pairs import tensors_with_pair
from edgeq.exporting.planning.saturation import SaturationGuard
from edgeq.exporting.planning.selection import Selection, activation_behind, rules_name
from edgeq.notes import log_of
from edgeq.quantizers import ROUND, QuantizedWeight, Statistics, get_weight_method
from edgeq.quantizers.bias import quantize_bias, scale_for_bias
from edgeq.quantizers.float8 import round_float8
from edgeq.quantizers.own_scales import on_own_scales
from edgeq.schemes import FLOAT, PerAxis, PerTensor, Scheme

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from edgeq.calibrators.ranges import Ranges
    from edgeq.targets import Rules

_log = log_of(__name__)


@dataclass(frozen=True)
class QuantPlan:
    """What a quantized file is to hold.

    Attributes:
        decisions: How every node that could be quantized is computed, and why.
        tensors: Tensor name -> its grid; each gets exactly one Q/DQ pair.
        notes: What a user should know, for example mixed ranges that were split.
        tied: Tensor name -> grid of the tensors without a pair that lie on the grid of one with a pair.
        weights: Node name -> its quantized weight, for all nodes that have one.
        biases: Node name -> its bias as integers, for those whose bias does not stay in float.
        saturation: What was changed so that sums in 16 bits do not saturate; empty for CPUs that are not x86.
    """

    decisions: tuple[LayerDecision, ...]
    tensors: Mapping[str, Grid]
    notes: tuple[str, ...] = ()
    tied: Mapping[str, Grid] = field(default_factory=dict)
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    biases: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    saturation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def quantized(self) -> frozenset[str]:
        """Names of the nodes that do not stay in float."""
        return frozenset(decision.name for decision in self.decisions if not decision.is_float)

    @property
    def in_float(self) -> frozenset[str]:
        """Names of the nodes that could be quantized and stay in float."""
        return frozenset(decision.name for decision in self.decisions if decision.is_float)

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest keeps: how many nodes run in INT8, and which stay in float for what reason."""
        return {
            "int8_nodes": len(self.quantized),
            "float_nodes": {decision.name: decision.reason for decision in self.decisions if decision.is_float},
            "quantized_tensors": len(self.tensors),
            "notes": list(self.notes),
            **({"saturation": dict(self.saturation)} if self.saturation else {}),
        }


def make_plan(
    model: ir.Model,
    selection: Selection,
    ranges: Ranges,
    rules: Rules,
    weight_method: str = ROUND,
    statistics: Mapping[str, Statistics] | None = None,
    weight_scales: Mapping[str, tuple[np.ndarray, int]] = MappingProxyType({}),
) -> QuantPlan:
    """Returns the plan for a graph, given its ranges.

    Tensors that operators only move share one grid, but for those behind the moves that have a pair there
    (`edgeq.exporting.planning.narrow_grids`). The inputs of a Concat share one unless their ranges differ more
    than `MAX_RANGE_RATIO` times: one grid for boxes in pixels and scores in 0..1 would round every score to zero. Then
    each keeps its own, and where the joined tensor feeds an INT8 layer that layer goes back to float.

    Args:
        model: The float graph.
        selection: What is quantized, and to which schemes.
        ranges: The ranges of its tensors.
        rules: The target's rules.
        weight_method: How weights become integers, a name of `edgeq.quantizers.WEIGHT_METHODS`.
        statistics: Tensor name -> what was collected of it, for weight methods that want it.
        weight_scales: Name of a weight -> scales that it has already, and their axis; where it lies on them it keeps
            them, whatever the method.

    Raises:
        InputError: there is no such weight method.
        MismatchError: a tensor has no range.
    """
    notes: list[str] = []
    widths = known_widths(ranges)
    selection = split_mixed_ranges(model, selection, widths, notes)
    schemes = _tensor_schemes(model, selection, rules)
    grids: dict[str, Grid] = {}
    guard = SaturationGuard(ranges.channel_maxima) if rules.saturates else None
    for members in tensors_by_grid(model, selection.tensors, widths):
        wanted = [schemes[name] for name in members if name in schemes] or list(schemes.values())
        grid = _grid(model, members, ranges, max(wanted, key=_strictness))
        if guard is not None:
            grid = guard.widen(model, members, grid, selection.quantized)
        grids.update(dict.fromkeys(members, grid))
    for note in notes:
        _log.warning(note)
    pairs = tensors_with_pair(model, selection, rules)
    if not rules.pairs_before_moves:
        grids |= narrowed_grids(model, {name: grids[name] for name in pairs}, ranges)
    tied = {name: grid for name, grid in grids.items() if name not in pairs}
    weights, biases = _quantized_weights(model, selection, grids, weight_method, statistics or {}, weight_scales, guard)
    facts = _saturation_facts(rules, guard)
    pairs_on = {name: grids[name] for name in pairs}
    return QuantPlan(selection.decisions, pairs_on, tuple(notes), tied, weights, biases, facts)


def make_dynamic_plan(model: ir.Model, selection: Selection, rules: Rules) -> QuantPlan:
    """Returns the plan of a file whose ranges are measured at every run: it has weights, and no grids.

    ConvTranspose has no integer operator in ONNX and stays in float, as does a Gemm with a transposed or scaled input.

    Args:
        model: The float graph.
        selection: Which layers may be quantized.
        rules: The target's rules.
    """
    nodes = {node.name: node for node in model.graph}

    def in_dynamic_form(decision: LayerDecision) -> LayerDecision:
        node, scheme = nodes[decision.name], rules.dynamic(rules_name(nodes[decision.name]))
        if decision.is_float:
            return decision
        if scheme is None or weight_of(node) is None or not _has_integer_form(node):
            return replace(decision, scheme=FLOAT, reason="ONNX has no dynamic form of it")
        return replace(decision, scheme=scheme)

    selection = replace(selection, decisions=tuple(map(in_dynamic_form, selection.decisions)), tensors=())
    guard = SaturationGuard({}) if rules.saturates else None
    weights, _ = _quantized_weights(model, selection, {}, ROUND, {}, guard=guard)
    return QuantPlan(selection.decisions, {}, weights=weights, saturation=_saturation_facts(rules, guard))


def weight_axis(node: ir.Node, weight: np.ndarray) -> int | None:
    """Returns the axis of a weight's output channels; `None` where groups divide them, so that one scale has to do."""
    if node.op_type == "ConvTranspose":
        return None if "group" in node.attributes and node.attributes["group"].as_int() > 1 else 1
    if node.op_type == "Gemm":
        return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
    return 0 if node.op_type == "Conv" else weight.ndim - 1


def channel_scheme(node: ir.Node, weight: np.ndarray, scheme: Scheme) -> Scheme:
    """Returns a declared scheme for the weight of one node, the axis of its channels filled in."""
    if scheme.granularity != PerAxis():
        return scheme
    axis = weight_axis(node, weight)
    return scheme.along(PerTensor() if axis is None else PerAxis(axis))


def _has_integer_form(node: ir.Node) -> bool:
    return node.op_type != "Gemm" or not any(name in node.attributes for name in ("alpha", "beta", "transA"))


def with_weights(plan: QuantPlan, model: ir.Model, weights: Mapping[str, QuantizedWeight]) -> QuantPlan:
    """Returns the plan with other weights, and biases whose steps suit their scales.

    Args:
        plan: The plan.
        model: The graph that it is for.
        weights: Node name -> its weight.
    """
    grids, biases = {**plan.tied, **plan.tensors}, dict(plan.biases)
    for node in model.graph:
        name = str(node.name)
        if name in weights and name in biases:
            bias = constant(node.inputs[2])
            assert bias is not None and node.inputs[0] is not None  # noqa: S101 - the plan has quantized it
            biases[name] = quantize_bias(bias, weights[name].scale, grids[str(node.inputs[0].name)].scale)
    return replace(plan, weights={**plan.weights, **weights}, biases=biases)


def _quantized_weights(
    model: ir.Model,
    selection: Selection,
    grids: Mapping[str, Grid],
    weight_method: str,
    statistics: Mapping[str, Statistics],
    scales: Mapping[str, tuple[np.ndarray, int]] = MappingProxyType({}),
    guard: SaturationGuard | None = None,
) -> tuple[dict[str, QuantizedWeight], dict[str, QuantizedWeight]]:
    """Returns node name -> quantized weight and bias."""
    method = get_weight_method(weight_method)
    schemes = {decision.name: decision.scheme for decision in selection.decisions}
    weights: dict[str, QuantizedWeight] = {}
    biases: dict[str, QuantizedWeight] = {}
    for node in model.graph:
        name, weight = str(node.name), weight_of(node)
        scheme = schemes.get(name, FLOAT)
        if weight is None or not scheme.weight.is_quantized:
            continue
        source = str(node.inputs[0].name) if node.inputs[0] is not None else ""
        stored = channel_scheme(node, weight, scheme.weight)
        if stored.is_float8:
            weights[name] = round_float8(weight, stored)
            continue
        quantized = method(weight, stored, statistics.get(source, {}))
        if (own := scales.get(str(node.inputs[1].name) if node.inputs[1] is not None else "")) is not None:
            quantized = on_own_scales(weight, quantized, *own)
        if guard is not None:
            quantized = guard.fit(node, weight, quantized, grids.get(source))
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None and scheme.bias.is_integer:
            step = grids[source].scale
            quantized = quantized.rescaled(weight, scale_for_bias(quantized.scale, quantized.dead, bias, step))
            biases[name] = quantize_bias(bias, quantized.scale, step)
        weights[name] = quantized
        del weight
        release(node.inputs[1].const_value if node.inputs[1] is not None else None)
    return weights, biases


def _saturation_facts(rules: Rules, guard: SaturationGuard | None) -> dict[str, Any]:
    if rules.isa is None:
        return {}
    return {"isa": rules.isa} if guard is None else guard.facts(rules.isa)


def _tensor_schemes(model: ir.Model, selection: Selection, rules: Rules) -> dict[str, Scheme]:
    """Returns tensor name -> how the quantized nodes around it want it stored; of several, the strictest."""
    schemes = {each.name: each.scheme.activation for each in selection.decisions if each.scheme.is_static}
    found: dict[str, Scheme] = {}
    for node in model.graph:
        wanted = schemes.get(str(node.name))
        for value, scheme in () if wanted is None else _stored(node, wanted, rules):
            before = found.setdefault(str(value.name), scheme)
            found[str(value.name)] = max(before, scheme, key=_strictness)
    return found


def _stored(node: ir.Node, scheme: Scheme, rules: Rules) -> list[tuple[ir.Value, Scheme]]:
    """Returns how a quantized node wants the tensors around it stored.

    What a product of activations writes is stored as its readers want it. The probabilities that it reads are stored as
    what layers read: they are never negative, and half of a grid around zero would be of no use to them.
    """
    if not multiplies_activations(node):
        return [(value, scheme) for value in (*data_inputs(node), *node.outputs, activation_behind(node))]
    layer = rules.static(node.op_type)
    unsigned = scheme if layer is None else layer.activation.with_bits(scheme.bits)
    return [(value, unsigned if _is_probability(value) else scheme) for value in data_inputs(node)]


def _is_probability(value: ir.Value) -> bool:
    producer = moved_from(value).producer()
    return producer is not None and producer.op_type == "Softmax"


def _strictness(scheme: Scheme) -> tuple[int, bool]:
    """Returns what decides between readers of one tensor: one that wants a zero of 0 has no kernel for another."""
    return scheme.bits, scheme.symmetric


def constant_ranges(model: ir.Model, members: Sequence[str]) -> list[Range]:
    """Returns the ranges of the constants among the tensors of one grid; zeros need no room."""
    ends = [ends_of(model.graph.initializers.get(name)) for name in members]
    return [
        Range(low, high, max(high, -low)) for low, high in (each for each in ends if each is not None) if low < high
    ]


def _grid(model: ir.Model, members: Sequence[str], ranges: Ranges, scheme: Scheme) -> Grid:
    observed = [name for name in members if name in ranges.tensors]
    if not observed:
        raise MismatchError(
            f"the ranges hold no interval for tensor {members[0]!r}; they were collected for another model or target, "
            "run `edgeq calibrate` again"
        )
    known = [ranges.tensors[name] for name in observed if name not in ranges.zeros] + constant_ranges(model, members)
    known = known or [ranges.tensors[name] for name in observed]
    low, high = min(found.low for found in known), max(found.high for found in known)
    return Grid.of(low, high, max(found.threshold for found in known), scheme)


def tensors_by_grid(model: ir.Model, tensors: Collection[str], widths: Mapping[str, float]) -> list[list[str]]:
    """Returns groups of tensors that hold the same values or must lie on one grid; each holds a planned tensor.

    Tensors without a pair belong to a group too: where a pass has put new tensors before an observed one, its range is
    theirs. So do constants that are moved or joined with others: their range is that of their values.

    Args:
        model: The float graph.
        tensors: Names of the planned tensors.
        widths: Tensor name -> largest magnitude of its range; none for what was always zero.
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
        if joins and (node.outputs[0].name not in tensors or range_ratio(node, widths) > MAX_RANGE_RATIO):
            continue
        # Where a MaxPool found its values is no value.
        moved = (*moved_inputs(node), *filter(is_float, node.outputs))
        first, *others = (str(value.name) for value in moved)
        for name in (first, *others):
            parent.setdefault(name, name)  # a constant
            parent[find(name)] = find(first)
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(find(name), []).append(name)
    planned = set(tensors)
    return [members for members in groups.values() if planned.intersection(members)]
