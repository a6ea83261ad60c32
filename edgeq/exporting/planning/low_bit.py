"""Plans of files whose weights have 2 to 8 bits, in groups along the inputs of each layer, and float activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.linear import linear_of, without_channels
from edgeq.exporting.jobs import PlannedWeight, QuantizedLayers
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.plan import weight_axis
from edgeq.exporting.planning.wide_ends import first_layers, last_layers
from edgeq.quantizers import ROUND, get_weight_method
from edgeq.schemes import FLOAT, LayerScheme, PerAxis, PerGroup, Scheme

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.jobs import QuantizeLayers
    from edgeq.exporting.planning.keep import Kept
    from edgeq.targets import Rules

LINEAR = frozenset({"Gemm", "MatMul"})

_ENDS_FROM = 4
"""Fewest bits of the first layers, which read the image, and of the last ones, which give the scores: they are few, and
every study of 2 and 3 bits leaves them wider."""


@dataclass(frozen=True)
class LowBitPlan:
    """What a file with weights of few bits is to hold.

    Attributes:
        decisions: How every layer with a weight is computed, and why.
        layers: Their weights, each a matrix `(out, in)`, and the tensors whose channels are scaled for them.
    """

    decisions: tuple[LayerDecision, ...]
    layers: QuantizedLayers


def make_low_bit_plan(
    model: ir.Model,
    rules: Rules,
    kept: Kept,
    scheme: LayerScheme,
    quantize: QuantizeLayers | None = None,
    whole_groups: Collection[str] = (),
    *,
    wide_ends: bool = True,
) -> LowBitPlan:
    """Returns the plan of a graph whose linear layers and convolutions have weights of few bits.

    Args:
        model: The float graph.
        rules: The target's rules, which name the operators.
        kept: What stays in float.
        scheme: How weights are stored.
        quantize: Quantizes the weights; by default they are rounded to nearest.
        whole_groups: Operators whose inputs the groups have to divide; those of others end in a shorter group.
        wide_ends: Whether below 4 bits the first and the last layers stay in float; a part in the middle of a model
            has neither.

    Raises:
        ModelError: the graph has no layer for it.
    """
    along = _along_inputs(scheme.weight)
    size = along.granularity.size if isinstance(along.granularity, PerGroup) else 1
    ends = first_layers(model) | last_layers(model) if wide_ends and scheme.weight.bits < _ENDS_FROM else set[str]()
    decisions: list[LayerDecision] = []
    planned: dict[str, PlannedWeight] = {}
    for node in model.graph:
        weight = weight_of(node)
        if weight is None:
            continue
        reason = _float_reason(node, weight, rules, kept)
        if reason is None and str(node.name) in ends:
            reason = f"the first and last layers lose most by {scheme.weight.bits} bits"
        if reason is None:
            matrix = as_matrix(node, weight)
            if matrix.shape[1] % size and node.op_type in whole_groups:
                reason = f"its {matrix.shape[1]} inputs are no multiple of groups of {size}"
            else:
                planned[str(node.name)] = PlannedWeight(matrix, along)
        found = FLOAT if reason is not None else scheme
        decisions.append(LayerDecision(str(node.name), node.op_type, found, reason or "the target runs it so"))
    if not planned:
        raise ModelError(
            f"no layer of the model can have weights of {scheme.weight.bits} bits: that takes a Gemm, MatMul or Conv "
            f"by a constant whose inputs are a multiple of {size}; choose another `group_size`, fp16 or int8"
        )
    return LowBitPlan(tuple(decisions), (quantize or _round)(model, planned))


def as_matrix(node: ir.Node, weight: np.ndarray) -> np.ndarray:
    """Returns the weight of a layer as a matrix `(out, in)`, float32."""
    first = weight if weight_axis(node, weight) == 0 else weight.T
    return np.ascontiguousarray(first.reshape(len(first), -1), np.float32)


def as_stored(node: ir.Node, matrix: np.ndarray) -> np.ndarray:
    """Returns a matrix `(out, in)` in the shape and type of a layer's weight."""
    weight = weight_of(node)
    assert weight is not None  # noqa: S101 - it was planned
    first = matrix if weight_axis(node, weight) == 0 else matrix.T
    return np.ascontiguousarray(first.reshape(weight.shape), weight.dtype)


def _along_inputs(scheme: Scheme) -> Scheme:
    """Returns a scheme for matrices `(out, in)`."""
    granularity = scheme.granularity
    if isinstance(granularity, PerGroup):
        return scheme.along(PerGroup(granularity.size, 1))
    return scheme.along(PerAxis(0)) if isinstance(granularity, PerAxis) else scheme


def _round(model: ir.Model, planned: Mapping[str, PlannedWeight]) -> QuantizedLayers:
    return QuantizedLayers({name: get_weight_method(ROUND)(*each, {}) for name, each in planned.items()})


def _float_reason(node: ir.Node, weight: np.ndarray, rules: Rules, kept: Kept) -> str | None:
    """Returns why a layer stays in float whatever its groups, `None` if it need not."""
    if not any(scheme.is_weight_only for scheme in rules.schemes.get(node.op_type, ())):
        return f"the target has no {node.op_type} with weights of few bits"
    if (reason := without_channels(node)) is not None or (reason := kept.reason(node)) is not None:
        return reason
    if node.op_type not in LINEAR:
        return None
    layer = linear_of(node)
    if layer is None or layer.node is not node or "alpha" in node.attributes:
        return "its product is scaled, or its input is transposed"
    return None
