"""Which layers a table of kernel costs puts into INT8, and why the others stay in float."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from edgeq.exporting.costs.cheapest import Conversion, LayerCost, cheapest, total_us
from edgeq.exporting.costs.kernel import WEIGHTED, Kernel, activation_nodes, kernel_of, product_kernel
from edgeq.exporting.graphs.attentions import Attention, find_attentions
from edgeq.exporting.graphs.data_flow import is_float
from edgeq.exporting.graphs.graph import data_inputs, multiplies_activations
from edgeq.exporting.graphs.moves import moves_values
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.planning.pairs import moves_in_float

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.costs.table import KernelCost, KernelTable
    from edgeq.targets import Rules

MARGIN = 0.03
"""What INT8 has to save of a layer's time in float: less is within what two runs differ by, and costs accuracy."""

_DEMANDS = 12
"""How many times the gain that is asked of a layer is halved, from the largest of a single layer on."""

_IMAGE = "the image"


@dataclass(frozen=True)
class CostProblem:
    """A graph as `edgeq.exporting.costs.cheapest` takes it.

    Attributes:
        layers: Name of a node -> its cost; a function that engines compute with a layer is part of it.
        conversions: The tensors between them.
        candidates: Names of the layers that may run in INT8, those that only move values left out.
    """

    layers: Mapping[str, LayerCost]
    conversions: tuple[Conversion, ...]
    candidates: frozenset[str]

    @property
    def without_choice(self) -> frozenset[str]:
        """Names of the layers that run in INT8 by the rules alone: the table has nothing like them."""
        return frozenset(name for name, cost in self.layers.items() if math.isinf(cost.float_us))

    def without(self, names: Collection[str]) -> CostProblem:
        """Returns the same problem with some layers in float; one that has no cost in float takes no time there."""
        layers = {
            name: LayerCost(0.0 if math.isinf(cost.float_us) else cost.float_us) if name in names else cost
            for name, cost in self.layers.items()
        }
        return CostProblem(layers, self.conversions, self.candidates.difference(names))


@dataclass(frozen=True)
class CostPlan:
    """The cheapest choice.

    Attributes:
        int8: Names of the layers in INT8.
        in_float: Name of each layer that could run in INT8 and does not -> why.
        predicted_us: What the layers of the table take together in this choice.
        float_us: What they take with all layers in float that have a choice.
        estimated: How many of the layers with a choice the table has no row of.
    """

    int8: frozenset[str]
    in_float: Mapping[str, str]
    predicted_us: float
    float_us: float
    estimated: int = 0

    def summary(self) -> dict[str, Any]:
        """Returns what the manifest keeps: the time of the layers that had a choice, and what they take in float."""
        rounded = {"predicted_us": round(self.predicted_us, 1), "float_us": round(self.float_us, 1)}
        return rounded | {"estimated": self.estimated}


def kernels_of(model: ir.Model, quantized: Set[str]) -> dict[str, Kernel]:
    """Returns name of a node -> its kernel, for what a choice of INT8 layers depends on.

    Those are the layers that may run in INT8, and what moves or joins values between them.

    Args:
        model: The graph that is quantized.
        quantized: Names of the nodes that may run in INT8.
    """
    found = {}
    for node in model.graph:
        name, kernel = str(node.name), kernel_of(node) or product_kernel(node)
        if kernel is not None and (name in quantized or kernel.operator not in WEIGHTED):
            found[name] = kernel
    return found


def choose_by_cost(
    model: ir.Model,
    quantized: Set[str],
    table: KernelTable,
    rules: Rules,
    least_gain_us: float = 0.0,
    noisy: Mapping[str, str] = MappingProxyType({}),
) -> CostPlan:
    """Returns the choice of INT8 layers that takes the least time by a table.

    Args:
        model: The graph that is quantized.
        quantized: Names of the nodes that may run in INT8.
        table: What kernels cost.
        rules: The target's rules, which say what moves values in float whatever is around it.
        least_gain_us: What every layer in INT8 has to save; layers that hang together save it on average.
        noisy: Name of a layer -> why it stays in float, whatever it saves.
    """
    problem = cost_problem(model, quantized, table, rules).without(noisy)
    int8 = _cheapest(problem, least_gain_us)
    reasons = {name: noisy[name] for name in sorted(quantized & noisy.keys())}
    reasons |= {name: _reason(name, int8, problem, least_gain_us) for name in sorted(problem.candidates - int8)}
    return CostPlan(
        int8 & problem.candidates,
        reasons,
        total_us(problem.layers, problem.conversions, int8),
        total_us(problem.layers, problem.conversions, problem.without_choice),
        sum(kernel not in table.rows for name, kernel in kernels_of(model, quantized).items() if name in quantized),
    )


def least_gains(model: ir.Model, quantized: Set[str], table: KernelTable, rules: Rules, most: int) -> tuple[float, ...]:
    """Returns what layers have to save, in us, so that `choose_by_cost` takes ever more of them, the fewest first.

    Each of these choices is a part of the next one, and the last is a part of the choice that asks for nothing: what
    saves the most for each of its layers is in all of them.

    Args:
        model: The graph that is quantized.
        quantized: Names of the nodes that may run in INT8.
        table: What kernels cost.
        rules: The target's rules.
        most: How many choices are wanted at most.
    """
    problem = cost_problem(model, quantized, table, rules)
    all_layers = len(_cheapest(problem, 0.0) & problem.candidates)
    found: dict[int, float] = {}
    costs = [problem.layers[name] for name in problem.candidates]
    largest = max((cost.float_us - cost.int8_us for cost in costs), default=0.0)
    for least in (largest / 2**step for step in range(_DEMANDS)):
        layers = len(_cheapest(problem, least) & problem.candidates)
        if 0 < layers < all_layers:
            found.setdefault(layers, least)
    chosen = [found[layers] for layers in sorted(found)]
    return tuple(chosen[len(chosen) * index // most] for index in range(most)) if len(chosen) > most else tuple(chosen)


def predicted_us(problem: CostProblem, int8: Set[str]) -> float:
    """Returns what the layers take if exactly these candidates run in INT8 and all that moves values fits itself in."""
    fixed = {}
    for name, cost in problem.layers.items():
        decided = LayerCost(math.inf, cost.int8_us) if name in int8 else LayerCost(cost.float_us)
        fixed[name] = decided if name in problem.candidates else cost
    chosen = cheapest(fixed, problem.conversions)
    return total_us(problem.layers, problem.conversions, chosen)


def cost_problem(model: ir.Model, quantized: Set[str], table: KernelTable, rules: Rules) -> CostProblem:
    """Returns the layers of a graph with their costs, and the tensors between them.

    A layer that has no cost in the table and may run in INT8 does so, as the target's rules say. What only moves
    values, and a sum without a cost, goes with the layers around it. Both products of an attention are one layer, that
    of the second: an engine computes them in one kernel.
    """
    costs = {name: cost for name, kernel in kernels_of(model, quantized).items() if (cost := table.cost(kernel))}
    owner = _owners(model)
    for attention in _quantized_attentions(model, quantized):
        first, second = str(attention.logits.name), str(attention.context.name)
        owner.update({id(node): attention.context for node in (attention.logits, *attention.between)})
        if first in costs and second in costs:
            one, other = costs.pop(first), costs[second]
            costs[second] = dataclasses.replace(
                other, f32_us=one.f32_us + other.f32_us, int8_us=one.int8_us + other.int8_us
            )
    layers: dict[str, LayerCost] = {_IMAGE: LayerCost(0.0)}
    for node in model.graph:
        if owner[id(node)] is node:
            layers[str(node.name)] = _layer_cost(node, costs.get(str(node.name)), quantized, rules)
    conversions = []
    for value, writer in _results(model, owner):
        readers = {str(owner[id(use.node)].name) for use in value.uses()} - {writer}
        ends = [_IMAGE] if value.is_graph_output() else []
        if (readers or ends) and is_float(value):
            conversions.append(_conversion(writer, (*sorted(readers), *ends), costs))
    candidates = frozenset(name for name in layers if name in quantized and name in costs)
    return CostProblem(layers, tuple(conversions), candidates)


def _quantized_attentions(model: ir.Model, quantized: Set[str]) -> list[Attention]:
    """Returns the attentions whose products may run in INT8; looked for only where there is such a product."""
    products = {str(node.name) for node in model.graph if multiplies_activations(node)}
    if quantized.isdisjoint(products):
        return []
    found = find_attentions(model, find_transformer(model))
    return [each for each in found if {each.logits.name, each.context.name} <= quantized]


def _owners(model: ir.Model) -> dict[int, ir.Node]:
    """Returns the identity of each node -> the layer that it is computed with, by default itself."""
    owner = {id(node): node for node in model.graph}
    for node in model.graph:
        if node.op_type in (*WEIGHTED, "MatMul", "Add") and owner[id(node)] is node:
            owner.update({id(each): node for each in activation_nodes(node)[1]})
    return owner


def _results(model: ir.Model, owner: Mapping[int, ir.Node]) -> list[tuple[ir.Value, str]]:
    """Returns the tensors that layers hand on, each with the name of the layer."""
    found = [(value, _IMAGE) for value in model.graph.inputs]
    for node in model.graph:
        for value in node.outputs:
            inside = bool(value.uses()) and all(owner[id(use.node)] is owner[id(node)] for use in value.uses())
            if not inside or value.is_graph_output():
                found.append((value, str(owner[id(node)].name)))
    return found


def _layer_cost(node: ir.Node, cost: KernelCost | None, quantized: Set[str], rules: Rules) -> LayerCost:
    is_moved = bool(data_inputs(node)) and moves_values(node) and not moves_in_float(node, rules)
    if node.name not in quantized and not is_moved:
        return LayerCost(0.0 if cost is None else cost.f32_us)
    if cost is not None:
        return LayerCost(cost.f32_us, cost.int8_us)
    return LayerCost(0.0 if is_moved or node.op_type == "Add" else math.inf, 0.0)


def _conversion(writer: str, readers: tuple[str, ...], costs: Mapping[str, KernelCost]) -> Conversion:
    if (cost := costs.get(writer)) is not None:
        return Conversion(writer, readers, cost.quantize_output_us, cost.dequantize_us)
    return Conversion(writer, readers, max((costs[name].quantize_us for name in readers if name in costs), default=0.0))


def _cheapest(problem: CostProblem, least_gain_us: float) -> frozenset[str]:
    """Returns the names of the layers that INT8 is worth, each of which has to save a margin and so much more."""
    wary = {
        name: dataclasses.replace(
            cost, int8_us=cost.int8_us + _margin(cost) + least_gain_us * (name in problem.candidates)
        )
        for name, cost in problem.layers.items()
    }
    return cheapest(wary, problem.conversions)


def _margin(cost: LayerCost) -> float:
    return MARGIN * cost.float_us if math.isfinite(cost.float_us) else 0.0


def _reason(name: str, int8: frozenset[str], problem: CostProblem, least_gain_us: float) -> str:
    """Returns why a layer stays in float: what it alone would cost more in INT8, all other layers as they are."""
    cost = problem.layers[name]
    saved = cost.float_us - cost.int8_us
    if saved <= _margin(cost):
        return f"INT8 is no faster: {cost.int8_us:.0f} us against {cost.float_us:.0f} in float"
    changed = total_us(problem.layers, problem.conversions, int8 | {name})
    converted = changed - total_us(problem.layers, problem.conversions, int8) + saved
    if converted < saved:
        return f"a smaller selection is faster than fp32: {saved - converted:.0f} us against {least_gain_us:.0f} wanted"
    return f"conversions cost more than INT8 saves: {converted:.0f} us against {saved:.0f}"
