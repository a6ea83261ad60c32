"""The rules of `edgeq check` for transformers: T15 and T16 of `edgeq.exporting.tensorrt.check`.

Source: NVIDIA's conditions for fused INT8 multi-head attention (TensorRT's developer guide and release notes).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.moves import RESHAPES
from edgeq.exporting.planning.attention_products import FUSED_HEADS, FUSED_TOKENS
from edgeq.exporting.tensorrt.qdq import DQ, Q, readers

if TYPE_CHECKING:
    import onnx_ir as ir

_NORMALIZATIONS = ("LayerNormalization", "GroupNormalization", "InstanceNormalization")
_BETWEEN = ("Mul", "Div", "Add", "Where", "Cast")
_PAIR = (Q, DQ)

IsQuantized = Callable[["ir.Value | None"], bool]


@dataclass(frozen=True)
class _Attention:
    """The two products around a Softmax, and whether a constant scales the logits between the first and it."""

    first: ir.Node
    second: ir.Node
    scaled_behind: bool


def normalization(node: ir.Node, is_quantized: IsQuantized) -> Iterator[str]:
    """Yields what is wrong with a normalisation or Softmax that reads dequantized integers (T15)."""
    if node.op_type in (*_NORMALIZATIONS, "Softmax") and is_quantized(node.inputs[0]):
        yield "reads dequantized integers, and TensorRT computes it in float: wanted the float tensor, without a pair"


def attention(node: ir.Node, is_quantized: IsQuantized, *, scales_first: bool) -> Iterator[str]:
    """Yields what keeps an attention with some INT8 in it from TensorRT's fused INT8 kernel (T16).

    Args:
        node: Its Softmax.
        is_quantized: Whether a value comes from a DequantizeLinear.
        scales_first: Whether the kernel wants the scale before the first product.
    """
    found = _attention_around(node) if node.op_type == "Softmax" else None
    if found is None:
        return
    first, second = found.first, found.second
    pairs = {
        "before the first product's queries": is_quantized(first.inputs[0]),
        "before the first product's keys": is_quantized(first.inputs[1]),
        "behind the Softmax": is_quantized(second.inputs[0]),
        "on the values": is_quantized(second.inputs[1]),
        "behind the second product": any(reader.op_type == Q for reader in _behind(second, RESHAPES)),
    }
    if not any(list(pairs.values())[:4]):
        return  # all float: the fused FP16 kernel
    missing = [place for place, there in pairs.items() if not there]
    if missing:
        lacking = ", ".join(missing)
        yield f"belongs to an attention that is only partly INT8: it has no pair {lacking}; wanted all five or none"
    if found.scaled_behind and scales_first:
        yield "reads logits that are scaled behind the first product; wanted the scale on the queries before it"
    head, tokens = _lengths(first)
    if head is not None and head not in FUSED_HEADS:
        sizes = ", ".join(map(str, FUSED_HEADS))
        yield f"belongs to heads of size {head}; INT8 is fused for {sizes} only: leave it in FP16"
    if tokens is not None and tokens > FUSED_TOKENS:
        yield f"goes over {tokens} tokens; INT8 is fused up to {FUSED_TOKENS}: leave it in FP16"


def _attention_around(softmax: ir.Node) -> _Attention | None:
    first, scaled = _product_before(softmax.inputs[0])
    second = next((reader for reader in _behind(softmax, _PAIR) if reader.op_type == "MatMul"), None)
    if first is None or second is None or constant(second.inputs[1]) is not None:
        return None
    return _Attention(first, second, scaled)


def _product_before(value: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """Returns the product of two computed tensors behind masks and scales, and whether there was a scale."""
    scaled = False
    node = value.producer() if value is not None else None
    while node is not None and (node.op_type in _BETWEEN or node.op_type in _PAIR):
        computed = [each for each in node.inputs if each is not None and constant(each) is None]
        scaled |= node.op_type in ("Mul", "Div")
        node = computed[0].producer() if computed else None
    if node is None or node.op_type != "MatMul" or any(constant(each) is not None for each in node.inputs):
        return None, scaled
    return node, scaled


def _behind(node: ir.Node, looked_through: Container[str]) -> Iterator[ir.Node]:
    """Yields what reads a node, looking through some operators."""
    for reader in readers(node.outputs[0]):
        if reader.op_type in looked_through:
            yield from _behind(reader, looked_through)
        else:
            yield reader


def _lengths(product: ir.Node) -> tuple[int | None, int | None]:
    """Returns the size of a head and the number of tokens, where the shapes tell."""
    shape = product.inputs[0].shape if product.inputs[0] is not None else None
    if shape is None or len(shape) < 2:
        return None, None
    tokens, head = shape[-2], shape[-1]
    return head if isinstance(head, int) else None, tokens if isinstance(tokens, int) else None
