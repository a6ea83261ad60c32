"""Decides, from a float TFLite graph alone, which precision each operator gets.

Rules, by number:

1. Convolutions and fully connected layers with a constant weight run in INT8.
2. The last convolutions before the graph's outputs stay in float, as in ONNX files: a detector's heatmap, sizes and
   offsets are read as they are, and cost next to nothing.
3. A layer before a function that is no ReLU (SiLU, GELU) is computed with `Precision.DYNAMIC`: TFLite has no INT8 layer
   with real outputs, and a static range before the function would spend its steps on the negative tail that the
   function flattens.
4. Operators between layers (`_FOLLOWERS`) run in INT8 where what they read is computed in INT8 and what reads them
   leads to an INT8 layer. A transformer's residual stream, normalisation and softmax lead to none, so they stay in
   float, which XNNPACK runs; their INT8 forms fall out of it.
5. Operators that `keep` names (by output tensor, by regular expression over the whole name, or by kind) stay in float.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import InputError
from edgeq.export.tflite.graph import Graph, Operator

LAYERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})
"""Operators with a weight, where the time goes."""

MOVES_VALUES = frozenset(
    {
        "MAX_POOL_2D", "PAD", "RESHAPE", "TRANSPOSE", "CONCATENATION", "SLICE", "STRIDED_SLICE", "SPLIT", "GATHER",
        "RESIZE_NEAREST_NEIGHBOR", "PACK", "UNPACK", "MIRROR_PAD", "SPACE_TO_DEPTH",
    }
)  # fmt: skip
"""Operators whose outputs hold no value that their inputs do not hold (or zero, which every grid holds)."""

_FOLLOWERS = MOVES_VALUES | {"ADD", "MUL", "AVERAGE_POOL_2D", "MEAN", "RESIZE_BILINEAR", "RELU"}
"""Operators that the quantizer writes and XNNPACK runs in INT8, worth it only between layers in INT8."""

_FUNCTIONS = frozenset({"LOGISTIC", "TANH", "GELU", "HARD_SWISH", "ELU", "EXP"})

_BEHIND_HEADS = MOVES_VALUES | {"LOGISTIC", "SOFTMAX", "RELU", "EXP", "TANH", "MUL", "SUB", "DIV", "DEQUANTIZE"}


class Precision(str, enum.Enum):
    """What an operator computes in.

    `INT8` and `INT16X8` have static ranges (activations of 8 or 16 bits, weights of 8); `DYNAMIC` has INT8 weights and
    measures the range of its input at every run.
    """

    FLOAT = "float"
    DYNAMIC = "dynamic"
    INT8 = "int8"
    INT16X8 = "int16x8"


@dataclass(frozen=True)
class Choice:
    """The precision of an operator and why.

    Attributes:
        name: Name of its first output.
        kind: The schema's name of the operator.
        precision: What it computes in.
        reason: Why, for the manifest.
    """

    name: str
    kind: str
    precision: Precision
    reason: str


def choose(graph: Graph, int8_depthwise: bool, keep: Sequence[str] = ()) -> dict[int, Choice]:
    """Returns operator number -> choice for static INT8, for every operator that could run in it.

    Args:
        graph: A float graph whose tensors have names of their own.
        int8_depthwise: Whether depthwise convolutions run in INT8.
        keep: Operators that stay in float.

    Raises:
        InputError: an entry of `keep` is no regular expression or matches nothing.
    """
    kept = _kept(graph, keep)
    heads = _heads(graph)
    layers = {
        operator.index: _layer(graph, operator, kept, heads, int8_depthwise)
        for operator in graph.operators
        if operator.kind in LAYERS
    }
    static = {index for index, (precision, _) in layers.items() if precision is Precision.INT8}
    between = _between(graph, static, kept)
    choices = {}
    for operator in graph.operators:
        precision, reason = layers.get(operator.index, (Precision.FLOAT, ""))
        if operator.kind in _FOLLOWERS:
            if operator.index in between:
                precision, reason = Precision.INT8, "between layers in INT8"
            elif operator.index in kept:
                reason = f"kept by {kept[operator.index]!r}"
            else:
                reason = "not between layers in INT8"
        elif operator.kind not in LAYERS:
            continue
        choices[operator.index] = Choice(_name(graph, operator), operator.kind, precision, reason)
    return choices


def choose_everywhere(graph: Graph, precision: Precision, keep: Sequence[str] = ()) -> dict[int, Choice]:
    """Returns operator number -> choice of one precision for all layers, and for int16x8 for what stands between.

    Raises:
        InputError: an entry of `keep` is no regular expression or matches nothing.
    """
    kept = _kept(graph, keep)
    layers = {operator.index for operator in graph.operators if operator.kind in LAYERS} - kept.keys()
    layers = {index for index in layers if _has_constant_weight(graph, graph.operators[index])}
    chosen = layers | (_between(graph, layers, kept) if precision is Precision.INT16X8 else set())
    return {
        index: Choice(_name(graph, graph.operators[index]), graph.operators[index].kind, precision, "asked for")
        for index in sorted(chosen)
    }


def observed_tensors(graph: Graph) -> list[str]:
    """Returns the tensors whose values decide static ranges, in graph order: all real activations that are computed.

    What operators only move has the range of what they move.
    """
    moved = {index for operator in graph.operators if operator.kind in MOVES_VALUES for index in operator.outputs}
    computed = [index for operator in graph.operators for index in operator.outputs]
    return [
        graph.tensors[index].name
        for index in (*graph.inputs, *computed)
        if index not in moved and graph.tensors[index].dtype == "float32"
    ]


def range_sources(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """Returns tensor name -> the observed tensors whose ranges, together, are its range."""
    sources: dict[int, tuple[int, ...]] = {index: (index,) for index in graph.inputs}
    for operator in graph.operators:
        activations = graph.activations(operator)
        for index in operator.outputs:
            if operator.kind in MOVES_VALUES and activations:
                joined = [source for given in activations for source in sources.get(given, (given,))]
                sources[index] = tuple(dict.fromkeys(joined))
            else:
                sources[index] = (index,)
    return {
        graph.tensors[index].name: tuple(graph.tensors[each].name for each in found)
        for index, found in sources.items()
        if graph.tensors[index].dtype == "float32"
    }


def _layer(
    graph: Graph, operator: Operator, kept: Mapping[int, str], heads: frozenset[int], int8_depthwise: bool
) -> tuple[Precision, str]:
    if operator.index in kept:
        return Precision.FLOAT, f"kept by {kept[operator.index]!r}"
    if not _has_constant_weight(graph, operator):
        return Precision.FLOAT, "its weight is not a constant"
    if operator.index in heads:
        return Precision.FLOAT, "last convolution of a head"
    if operator.kind == "DEPTHWISE_CONV_2D" and not int8_depthwise:
        return Precision.FLOAT, "depthwise convolution"
    if any(reader.kind in _FUNCTIONS for index in operator.outputs for reader in graph.readers[index]):
        return Precision.DYNAMIC, "a function that is no ReLU stands behind it"
    return Precision.INT8, "a layer"


def _between(graph: Graph, layers: set[int], kept: Mapping[int, str]) -> set[int]:
    """Returns the followers that read INT8 numbers and lead to an INT8 layer (rule 4): the largest such set."""
    followers = {
        operator.index for operator in graph.operators if operator.kind in _FOLLOWERS and operator.index not in kept
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
        (index in graph.inputs and operator.kind in MOVES_VALUES)
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


def _kept(graph: Graph, keep: Sequence[str]) -> dict[int, str]:
    kept: dict[int, str] = {}
    for pattern in keep:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise InputError(f"--keep {pattern!r}: is not a regular expression ({error})") from None
        matched = [
            operator.index for operator in graph.operators
            if pattern in (operator.kind, _name(graph, operator)) or expression.fullmatch(_name(graph, operator))
        ]  # fmt: skip
        if not matched:
            names = ", ".join(_name(graph, operator) for operator in graph.operators[:5])
            raise InputError(f"--keep {pattern!r}: matches no operator; they are named by their outputs, like {names}")
        kept.update(dict.fromkeys(matched, pattern))
    return kept


def _name(graph: Graph, operator: Operator) -> str:
    return graph.tensors[operator.outputs[0]].name
