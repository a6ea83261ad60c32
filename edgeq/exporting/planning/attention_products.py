"""Which products of activations in an attention run in INT8: those that the target's engines have kernels for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.planning.keep import VitPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from edgeq.exporting.graphs.transformer import Transformer
    from edgeq.targets import Rules

FUSED_HEADS, FUSED_TOKENS = (16, 32, 64), 512
"""Sizes of heads, and most tokens, that TensorRT's fused INT8 attention takes."""


def attention_reasons(
    model: ir.Model, transformer: Transformer, rules: Rules, vit_plan: VitPlan, slow: Mapping[str, str]
) -> dict[int, str]:
    """Returns block -> why the products of its attention stay in float; both of them run in INT8 or none.

    Args:
        model: The float graph.
        transformer: Its encoder blocks.
        rules: The target's rules.
        vit_plan: The plan for transformers.
        slow: Name of a node -> why it takes less time in float.
    """
    if rules.int8_attention == "none":
        return dict.fromkeys(range(transformer.blocks), "an attention's product: in INT8 the target is no faster")
    if vit_plan != "fast":
        return dict.fromkeys(range(transformer.blocks), "an attention's product, which --vit-plan fast quantizes")
    reasons: dict[int, str] = {}
    for node in model.graph:
        name = node.name or ""
        role = transformer.roles.get(name)
        if role is None or not role.is_product or node.op_type != "MatMul":
            continue
        reason = slow.get(name) or (_unfused(node, role.part) if rules.int8_attention == "fused" else None)
        if reason is not None:
            reasons.setdefault(role.block, reason)
    return reasons


def _unfused(node: ir.Node, part: str) -> str | None:
    """Returns what keeps a product from TensorRT's fused INT8 attention (its developer guide), or `None`."""
    if part == "logits":
        if any(use.node.op_type in ("Mul", "Div") for use in node.outputs[0].uses()):
            return "its logits are scaled behind the product, and TensorRT fuses a scale before it alone"
        lengths = node.inputs[0].shape if node.inputs[0] is not None else None
        head, tokens = (None, None) if lengths is None else (lengths[-1], lengths[-2])
        if head not in FUSED_HEADS:
            return f"its heads are of size {head}; TensorRT fuses INT8 attention for {', '.join(map(str, FUSED_HEADS))}"
        if tokens == 1:
            return "it has one query, and TensorRT fuses that in float alone"
        if not isinstance(tokens, int) or tokens > FUSED_TOKENS:
            return f"it goes over {tokens} tokens; TensorRT fuses INT8 attention up to {FUSED_TOKENS}"
    return None
