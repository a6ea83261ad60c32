"""What each group of layers costs: the additive model of a subject, from kernel costs, weights and noise.

Times are those of the kernel table of the target's engine, conversions between precisions included. For a target
without one they are estimated from what a layer multiplies and moves; only their ratios mean something then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from edgeq.exporting.costs.kernel import Kernel
from edgeq.exporting.costs.plan import choose_by_cost, cost_problem, kernels_of
from edgeq.exporting.costs.table import KernelCost, KernelTable
from edgeq.exporting.onnx.writer import quantizable_graph
from edgeq.exporting.planning.selection import select_layers
from edgeq.measurement.kernel_tables import TIMED_RUNTIMES, costs_here
from edgeq.tuning.candidate import FLOAT, INT8, W4A8
from edgeq.tuning.front import Link, Option, Problem
from edgeq.tuning.search_sizes import LayerSizes
from edgeq.tuning.trials import Subject

_MACS_PER_US, _INT8_SPEEDUP = 16_000.0, 3.0
_BYTES_PER_US = 10_000.0
"""A core of 16 GMAC/s in float and 48 in INT8 that moves 10 GB/s: what is estimated without a table."""


@dataclass(frozen=True)
class LayerCosts:
    """What the layers of a subject cost.

    Attributes:
        table: Times of its kernels.
        time_source: How these were obtained, in a few words.
        is_estimated: Whether they are estimates, of which only ratios mean something.
    """

    table: KernelTable
    time_source: str
    is_estimated: bool


def layer_costs(subject: Subject, threads: int | None, *, measure: bool) -> LayerCosts:
    """Returns what the layers of a subject cost in the engine of its target.

    Args:
        subject: The model, its target and its ranges.
        threads: CPU threads of the engine.
        measure: Whether kernels that were not timed on this machine yet are timed now.
    """
    engine, estimated = subject.target.runtimes[0], estimated_costs(subject)
    table = None
    if subject.target.timed and engine in TIMED_RUNTIMES:
        table = costs_here(engine, estimated.table.rows, threads=threads, measure=measure)
    if table is None:
        return estimated
    return replace(estimated, table=table, time_source=f"kernel costs {table.source}", is_estimated=False)


def estimated_costs(subject: Subject) -> LayerCosts:
    """Returns what the layers of a subject cost by what they multiply and move."""
    graph, _ = quantizable_graph(subject.model, subject.target)
    kernels = kernels_of(graph, subject.selection.quantized)
    table = _estimated(subject.target.runtimes[0], kernels.values())
    return LayerCosts(table, "estimated from multiplications and bytes moved", True)


def kept_by_cost(subject: Subject, costs: LayerCosts, *, by_cost: bool) -> frozenset[str]:
    """Returns the layers of a subject that `edgeq export` leaves in float; those of a TFLite file all are in INT8.

    Args:
        subject: The model, its target and its ranges.
        costs: What its layers cost.
        by_cost: Whether it goes by kernel costs, if there are any, and not by the target's rules and its plan for
            transformers alone.
    """
    if subject.files is not None:
        return frozenset()
    graph, _ = quantizable_graph(subject.model, subject.target)
    rules = subject.target.rules
    quantized = select_layers(graph, rules).quantized
    if by_cost and not costs.is_estimated:
        quantized = select_layers(
            graph, rules, slow=choose_by_cost(graph, quantized, costs.table, rules).in_float
        ).quantized
    return subject.selection.quantized - quantized


def additive_problem(
    subject: Subject, costs: LayerCosts, noise: Mapping[str, Mapping[str, float]], sizes: LayerSizes
) -> Problem:
    """Returns a subject as the sum of its groups.

    Weights of 4 bits are widened when a file is loaded, so that a layer takes the same time with them as in INT8.

    Args:
        subject: The model, its target and its ranges.
        costs: What its layers cost.
        noise: Name of a group -> precision -> noise that it leaves; a group without any stays in float.
        sizes: What its layers take in a file.
    """
    graph, _ = quantizable_graph(subject.model, subject.target)
    layers = cost_problem(graph, subject.selection.quantized, costs.table, subject.target.rules)
    group_of = {layer: group.name for group in subject.groups for layer in group.layers}
    groups: dict[str, dict[str, Option]] = {}
    for group in subject.groups:
        own = [layers.layers[layer] for layer in group.layers if layer in layers.layers]
        known = [each for each in own if math.isfinite(each.float_us) and math.isfinite(each.int8_us)]
        times = {FLOAT: sum(each.float_us for each in known)}
        times |= dict.fromkeys((INT8, W4A8), sum(each.int8_us for each in known))
        groups[group.name] = {
            precision: Option(share, times[precision], sizes.of(group.layers, precision))
            for precision, share in {FLOAT: 0.0, **noise.get(group.name, {})}.items()
        }
    for name, cost in layers.layers.items():
        if name in group_of:
            continue
        both = {FLOAT: cost.float_us, INT8: cost.int8_us}  # what only moves values fits itself in
        groups[name] = {precision: Option(0.0, time) for precision, time in both.items() if math.isfinite(time)}
    links = []
    for each in layers.conversions:
        writer = group_of.get(each.writer, each.writer)
        readers = {group_of.get(name, name) for name in each.readers} - {writer}
        if readers and (each.quantize_us or each.dequantize_us):
            links.append(Link(writer, tuple(sorted(readers)), each.quantize_us, each.dequantize_us))
    return Problem(groups, tuple(links))


def _estimated(engine: str, kernels: Iterable[Kernel]) -> KernelTable:
    """Returns a table of estimates."""
    rows = {}
    for kernel in kernels:
        moved = kernel.source.size + kernel.result.size
        weights = kernel.macs // max(kernel.result.height * kernel.result.width, 1)
        rows[kernel] = KernelCost(
            f32_us=kernel.macs / _MACS_PER_US + 4 * (moved + weights) / _BYTES_PER_US,
            int8_us=kernel.macs / (_INT8_SPEEDUP * _MACS_PER_US) + (moved + weights) / _BYTES_PER_US,
            quantize_us=5 * kernel.source.size / _BYTES_PER_US,
            dequantize_us=3 * kernel.result.size / _BYTES_PER_US,
        )
    return KernelTable(engine, "", "", (), 1, "shipped", rows)
