"""Plans of files whose weights alone are quantized: which layers, and the integers or FP4 numbers of each weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.graphs.linear import without_channels
from edgeq.exporting.planning.decision import LayerDecision
from edgeq.exporting.planning.plan import QuantPlan, weight_axis
from edgeq.exporting.tensorrt.strong_typing import scales_rounded_up
from edgeq.quantizers import ROUND, get_weight_method
from edgeq.quantizers.error_feedback import feed_integers_forward
from edgeq.quantizers.float4 import feed_float4_forward, least_tensor_scale, round_float4
from edgeq.schemes import FLOAT, PerGroup

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.jobs import LayerMoments
    from edgeq.exporting.planning.keep import Kept
    from edgeq.quantizers import QuantizedWeight
    from edgeq.schemes import LayerScheme, Scheme
    from edgeq.targets import Rules


def make_weight_only_plan(
    model: ir.Model, rules: Rules, kept: Kept, name: str, measure: LayerMoments | None = None
) -> QuantPlan:
    """Returns the plan of a graph whose linear layers have weights of few bits and float activations.

    Scales are numbers that FP16 holds exactly. Weights are rounded so that outputs change least, or to nearest where
    nothing is known of the inputs.

    Args:
        model: The float graph.
        rules: The target's rules.
        kept: What stays in float.
        name: Name of the scheme, `w4` or `fp4`.
        measure: Measures what layers read.

    Raises:
        ModelError: the graph has no layer for it.
    """
    decisions: list[LayerDecision] = []
    planned: dict[str, tuple[np.ndarray, Scheme]] = {}
    for node in model.graph:
        weight = weight_of(node)
        if weight is None:
            continue
        scheme, layer = rules.weight_only(node.op_type, name), str(node.name)
        reason = _float_reason(node, weight, scheme, kept)
        if scheme is None or reason is not None:
            decisions.append(LayerDecision(layer, node.op_type, FLOAT, reason or ""))
            continue
        decisions.append(LayerDecision(layer, node.op_type, scheme, "the target runs it so"))
        planned[layer] = weight, _along_inputs(node, weight, scheme.weight)
    if not planned:
        raise ModelError(
            "no layer of the model can have weights of 4 bits: that takes a Gemm or MatMul by a constant matrix; take "
            "fp16 or int8"
        )
    weights = {}
    for layer, moments in () if measure is None else measure(model, planned.keys()):
        weights[layer] = _fed_forward(*planned[layer], moments)
    note = f"{len(weights)} of {len(planned)} weights are rounded by what their layers read"
    weights |= {layer: _rounded(*each) for layer, each in planned.items() if layer not in weights}
    return QuantPlan(tuple(decisions), {}, notes=(note,), weights=weights)


def _rounded(weight: np.ndarray, scheme: Scheme) -> QuantizedWeight:
    if scheme.is_float4:
        return round_float4(weight, scheme, scales_rounded_up(least_tensor_scale(weight)))
    rounded = get_weight_method(ROUND)(weight, scheme, {})
    return rounded.rescaled(weight, scales_rounded_up(rounded.scale))


def _fed_forward(weight: np.ndarray, scheme: Scheme, moments: np.ndarray) -> QuantizedWeight:
    if scheme.is_float4:
        return feed_float4_forward(weight, scheme, scales_rounded_up(least_tensor_scale(weight)), moments)
    return feed_integers_forward(weight, scheme, moments, scales_rounded_up)


def _float_reason(node: ir.Node, weight: np.ndarray, scheme: LayerScheme | None, kept: Kept) -> str | None:
    """Returns why a layer stays in float, `None` if it need not."""
    if scheme is None:
        return f"the target has no {node.op_type} with weights of few bits"
    if (reason := without_channels(node)) is not None or (reason := kept.reason(node)) is not None:
        return reason
    granularity = _along_inputs(node, weight, scheme.weight).granularity
    assert isinstance(granularity, PerGroup)  # noqa: S101 - `_along_inputs` makes it
    inputs = weight.shape[granularity.axis]
    if inputs % granularity.size:
        return f"its {inputs} inputs are no multiple of blocks of {granularity.size}"
    return None


def _along_inputs(node: ir.Node, weight: np.ndarray, scheme: Scheme) -> Scheme:
    """Returns a declared scheme for the weight of one node, the axis of its inputs filled in."""
    assert isinstance(scheme.granularity, PerGroup)  # noqa: S101 - what `Rules.weight_only` returns
    axis = 1 - (weight_axis(node, weight) or 0)
    return scheme.along(PerGroup(scheme.granularity.size, axis))
