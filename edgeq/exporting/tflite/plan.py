"""Decides, from a float TFLite graph alone, which precision each operator gets.

Rules, by number:

1. Convolutions and fully connected layers with a constant weight run in INT8.
2. The last convolutions before the graph's outputs are `DYNAMIC`: a detector's heatmap, sizes and offsets are
   read as they are. On CenterNet-R18 with bccd, AP .5829 in float, this gave .5836, static outputs .5746, last
   convolutions in float .5830 and in int16x8 .5823, slower.
3. A layer before a function that is no ReLU (SiLU, GELU) is dynamic too: TFLite has no static layer with real outputs,
   and a static range before the function would spend its steps on the negative tail that the function flattens.
4. Operators between layers, which have schemes and no weight, run in INT8 where what they read is computed in INT8 and
   what reads them leads to an INT8 layer. A transformer's residual stream, normalisation and softmax lead to none, so
   they stay in float, which XNNPACK runs; their INT8 forms fall out of it.
5. Operators that are kept (`edgeq.exporting.tflite.keep`) stay in float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np

from edgeq.exporting.graphs.moves import TFLITE_MOVES_VALUES
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.mixed_ranges import MAX_RANGE_RATIO
from edgeq.exporting.tflite.graph import Graph, Operator
from edgeq.exporting.tflite.keep import operator_name
from edgeq.schemes import DYNAMIC_INT8, FLOAT, LayerScheme
from edgeq.targets.tflite import INT8, LITERT

LAYERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Operators with a weight, where the time goes."""

_FUNCTIONS = frozenset({"LOGISTIC", "TANH", "GELU", "HARD_SWISH", "ELU", "EXP"})

_BEHIND_HEADS = TFLITE_MOVES_VALUES | {"LOGISTIC", "SOFTMAX", "RELU", "EXP", "TANH", "MUL", "SUB", "DIV", "DEQUANTIZE"}

_NOTHING: Mapping[str, str] = MappingProxyType({})

Schemes = Mapping[str, tuple[LayerScheme, ...]]
"""Kind of an operator -> how the engines run it in integers (`Target.tflite`)."""


def select_operators(
    graph: Graph,
    kept: Mapping[str, str] = _NOTHING,
    *,
    integer_heads: bool = False,
    apart: Collection[int] = (),
    schemes: Schemes = LITERT,
) -> dict[int, LayerDecision]:
    """Returns operator number -> decision for static INT8, for every operator that could run in it.

    Args:
        graph: A float graph whose tensors have names of their own.
        kept: Name of an operator -> why it stays in float (`resolve_operators`).
        integer_heads: Whether the last convolutions are static too, for outputs that are integers.
        apart: CONCATENATIONs whose inputs keep grids of their own (`mixed_ranges`), so that they are float.
        schemes: How the target's engines run each kind of operator.
    """
    in_float = _numbers(graph, kept)
    heads = frozenset() if integer_heads else _heads(graph)
    layers = {
        operator.index: _layer(graph, operator, in_float, heads, schemes)
        for operator in graph.operators
        if operator.kind in LAYERS
    }
    static = {index for index, (scheme, _) in layers.items() if scheme == INT8}
    followers = _followers(schemes, INT8)
    between = _between(graph, static, {*in_float, *apart}, followers)
    decisions = {}
    for operator in graph.operators:
        if operator.kind in followers and graph.tensors[operator.outputs[0]].dtype.startswith("float"):
            layers[operator.index] = _follower(operator.index, between, in_float, apart)
        if operator.index in layers:
            scheme, reason = layers[operator.index]
            decisions[operator.index] = LayerDecision(operator_name(graph, operator), operator.kind, scheme, reason)
    return decisions


def select_everywhere(
    graph: Graph, scheme: LayerScheme, kept: Mapping[str, str] = _NOTHING, schemes: Schemes = LITERT
) -> dict[int, LayerDecision]:
    """Returns operator number -> decision of one scheme for all layers, and for int16x8 for what stands between.

    Args:
        graph: A float graph whose tensors have names of their own.
        scheme: `DYNAMIC_INT8` or `INT16X8`.
        kept: Name of an operator -> why it stays in float.
        schemes: How the target's engines run each kind of operator.
    """
    in_float = _numbers(graph, kept)
    layers = {
        operator.index
        for operator in graph.operators
        if operator.kind in LAYERS
        and scheme in schemes.get(operator.kind, ())
        and operator.index not in in_float
        and _has_constant_weight(graph, operator)
    }
    between = _between(graph, layers, in_float.keys(), _followers(schemes, scheme)) if scheme.is_static else set[int]()
    return {
        index: LayerDecision(
            operator_name(graph, graph.operators[index]), graph.operators[index].kind, scheme, "asked for"
        )
        for index in sorted(layers | between)
    }


def moves_values(graph: Graph, operator: Operator) -> bool:
    """Returns whether what an operator hands on lies within what it reads, zero and infinity aside.

    Infinity is what a pool's input is padded with, so that no output of the pool is one.
    """
    if operator.kind != "PADV2":
        return operator.kind in TFLITE_MOVES_VALUES
    fill = graph.values.get(operator.inputs[2])
    return fill is not None and bool(np.isinf(fill).all())


def real_activations(graph: Graph) -> list[str]:
    """Returns the inputs of a graph and what its operators compute or move, as far as it is real, in graph order."""
    computed = [index for operator in graph.operators for index in operator.outputs]
    tensors = (graph.tensors[index] for index in (*graph.inputs, *computed))
    return [tensor.name for tensor in tensors if tensor.dtype == "float32"]


def observed_tensors(graph: Graph) -> list[str]:
    """Returns the tensors whose values decide static ranges, in graph order: all real activations that are computed.

    What operators only move has the range of what they move.
    """
    moved = {
        graph.tensors[index].name
        for operator in graph.operators
        if moves_values(graph, operator)
        for index in operator.outputs
    }
    return [name for name in real_activations(graph) if name not in moved]


def needed_tensors(graph: Graph, decisions: Mapping[int, LayerDecision], integer_io: bool) -> list[str]:
    """Returns the tensors that static operators read or write, and the graph's ends where they are integers.

    What operators only move stands for what it was moved from.
    """
    static = [graph.operators[index] for index, decision in decisions.items() if decision.scheme.is_static]
    wanted = {index for operator in static for index in (*graph.activations(operator), *operator.outputs)}
    if integer_io:
        wanted |= {*graph.inputs, *graph.outputs}
    needed: set[int] = set()
    while wanted:
        index = wanted.pop()
        producer = graph.producer.get(index)
        if producer is not None and moves_values(graph, producer):
            wanted.update(graph.activations(producer))
        else:
            needed.add(index)
    return [graph.tensors[index].name for index in sorted(needed)]


def tied(graph: Graph, static: Collection[Operator]) -> list[set[int]]:
    """Returns groups of tensors that lie on one grid: what static operators only move, and what stands alone.

    Tensors that float operators move belong to a group with what they move too: their values are known from it. So do
    constants that are moved or joined with others.
    """
    group = {
        tensor.index: {tensor.index} for tensor in graph.tensors if not tensor.constant or tensor.index in graph.values
    }
    for operator in graph.operators:
        if not moves_values(graph, operator) or (operator.kind == "CONCATENATION" and operator not in static):
            continue
        for index in (*graph.moved(operator), *operator.outputs):
            first = group[operator.outputs[0]]
            if group[index] is not first:
                first |= group[index]
                for member in group[index]:
                    group[member] = first
    return list({id(members): members for members in group.values()}.values())


def mixed_ranges(graph: Graph, decisions: Mapping[int, LayerDecision], widths: Mapping[str, float]) -> frozenset[int]:
    """Returns the static CONCATENATIONs whose inputs differ in width more than `MAX_RANGE_RATIO` times.

    Args:
        graph: The float graph.
        decisions: The plan.
        widths: Tensor name -> largest magnitude of its range.
    """
    found = set()
    for index, decision in decisions.items():
        operator = graph.operators[index]
        if operator.kind != "CONCATENATION" or not decision.scheme.is_static:
            continue
        known = [widths[name] for name in (graph.tensors[each].name for each in operator.inputs) if name in widths]
        constants = [float(np.abs(graph.values[each]).max()) for each in operator.inputs if each in graph.values]
        known += [width for width in constants if width > 0]  # zeros go with every range
        if len(known) > 1 and max(known) > MAX_RANGE_RATIO * max(min(known), 1e-30):
            found.add(index)
    return frozenset(found)


def _layer(
    graph: Graph, operator: Operator, kept: Mapping[int, str], heads: frozenset[int], schemes: Schemes
) -> tuple[LayerScheme, str]:
    known = schemes.get(operator.kind, ())
    dynamic = DYNAMIC_INT8 if DYNAMIC_INT8 in known else FLOAT
    if operator.index in kept:
        return FLOAT, kept[operator.index]
    if not _has_constant_weight(graph, operator):
        return FLOAT, "its weight is not a constant"
    if operator.index in heads:
        return dynamic, "last convolution of a head"
    if any(reader.kind in _FUNCTIONS for index in operator.outputs for reader in graph.readers[index]):
        return dynamic, "it is followed by a function other than ReLU"
    return (INT8, "a layer") if INT8 in known else (FLOAT, f"the target leaves {operator.kind} in float")


def _follower(
    index: int, between: Collection[int], kept: Mapping[int, str], apart: Collection[int]
) -> tuple[LayerScheme, str]:
    if index in between:
        return INT8, "between layers in INT8"
    if index in kept:
        return FLOAT, kept[index]
    if index in apart:
        return FLOAT, "the ranges of its inputs are too different for one scale"
    return FLOAT, "not between layers in INT8"


def _followers(schemes: Schemes, scheme: LayerScheme) -> frozenset[str]:
    """Returns the kinds of operators without a weight that the engines run so."""
    return frozenset(kind for kind, known in schemes.items() if kind not in LAYERS and scheme in known)


def _between(graph: Graph, layers: set[int], float_operators: Collection[int], kinds: Collection[str]) -> set[int]:
    """Returns the followers that read INT8 numbers and lead to an INT8 layer (rule 4): the largest such set."""
    followers = {
        operator.index
        for operator in graph.operators
        if operator.kind in kinds and operator.index not in float_operators
    }
    while True:
        static = layers | followers
        remaining = {index for index in followers if _fits(graph, graph.operators[index], static)}
        remaining &= _leading_to(graph, remaining, layers)
        if remaining == followers:
            return followers
        followers = remaining


def _fits(graph: Graph, operator: Operator, static: set[int]) -> bool:
    """Returns whether all that an operator computes with is there in INT8; the image is, where it is only moved."""
    activations = graph.activations(operator)
    if operator.kind in ("ADD", "MUL") and len(activations) < 2:
        return False  # a constant operand is a normalisation's, or an offset of small steps
    return bool(activations) and all(
        (index in graph.inputs and operator.kind in TFLITE_MOVES_VALUES)
        or (index in graph.producer and graph.producer[index].index in static)
        for index in activations
    )


def _leading_to(graph: Graph, followers: set[int], layers: set[int]) -> set[int]:
    """Returns the followers from which a path of followers ends in a layer."""
    found: set[int] = set()
    for operator in reversed(graph.operators):
        readers = [reader.index for index in operator.outputs for reader in graph.readers[index]]
        if operator.index in followers and any(reader in layers or reader in found for reader in readers):
            found.add(operator.index)
    return found


def _heads(graph: Graph) -> frozenset[int]:
    """Returns the last convolutions before each output, walking back over what may stand behind a head (rule 2)."""
    found: set[int] = set()
    seen: set[int] = set()
    pending = list(graph.outputs)
    while pending:
        operator = graph.producer.get(pending.pop())
        if operator is None or operator.index in seen:
            continue
        seen.add(operator.index)
        if operator.kind in ("CONV_2D", "TRANSPOSE_CONV"):
            found.add(operator.index)
        elif operator.kind in _BEHIND_HEADS or (operator.kind == "ADD" and len(graph.activations(operator)) == 1):
            pending += graph.activations(operator)
    return frozenset(found)


def _has_constant_weight(graph: Graph, operator: Operator) -> bool:
    weight = operator.inputs[1] if len(operator.inputs) > 1 else -1
    return weight >= 0 and graph.tensors[weight].constant


def _numbers(graph: Graph, kept: Mapping[str, str]) -> dict[int, str]:
    """Returns operator number -> why it stays in float."""
    names = {operator.index: operator_name(graph, operator) for operator in graph.operators}
    return {index: kept[name] for index, name in names.items() if name in kept}
