"""The rules of `edgeq check` about layers and what stands around them: T7 to T10, T12, T13, T15 and T16.

`edgeq.exporting.tensorrt.check` lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.float4 import scale_of
from edgeq.exporting.graphs.graph import WEIGHTED_OPS, kernel_positions
from edgeq.exporting.planning.mixed_ranges import MAX_RANGE_RATIO
from edgeq.exporting.tensorrt import check_attention
from edgeq.exporting.tensorrt.findings import Builder, Finding, finding
from edgeq.exporting.tensorrt.qdq import (
    DQ,
    Q,
    is_constant,
    pair_scale,
    quantized_value,
    readers,
)
from edgeq.targets.base import LARGEST_FP8_KERNEL

if TYPE_CHECKING:
    import onnx_ir as ir

_ACTIVATIONS = ("Relu", "Clip")


def both_inputs(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields layers with a pair on one input only (T7)."""
    if node.op_type not in WEIGHTED_OPS or builder.pairs.kind(node) == "weights":
        return
    names = ("its input", "its weight") if is_constant(node.inputs[1]) else ("its first input", "its second input")
    having = [builder.pairs.is_quantized(value) for value in node.inputs[:2]]
    # Integers that were pooled or joined, and then read by a layer in float, are nothing wrong.
    if any(having) and not all(having) and (having[1] or quantized_value(node.inputs[0]) is not None):
        has, lacks = (names[0], names[1]) if having[0] else (names[1], names[0])
        said = f"has a pair on {has} and none on {lacks}; wanted both, or none for float"
        yield finding("T7", builder.misplaced, node, said)


def before_activation(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields pairs between a layer and its ReLU (T8)."""
    del builder
    if node.op_type not in _ACTIVATIONS or node.inputs[0] is None:
        return
    source = quantized_value(node.inputs[0])
    layer = source.producer() if source is not None else None
    if layer is not None and layer.op_type in (*WEIGHTED_OPS, "BatchNormalization", "Add"):
        yield finding("T8", "advice", node, f"follows a pair, so {layer.name} is not fused with it")


def residual(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields residual sums whose pairs keep a layer from being fused with them (T9)."""
    if node.op_type != "Add" or any(is_constant(value) for value in node.inputs):
        return
    if len({str(value.shape) for value in node.inputs if value is not None}) != 1:
        return
    pairs = builder.pairs
    # What others read too is written anyway, and not fused with the sum.
    alone = [value for value in node.inputs if value is not None and len(value.uses()) == 1]
    direct = [pairs.is_int8(value.producer()) for value in alone]
    paired = [pairs.is_quantized(value) for value in node.inputs]
    if any(direct) and not any(paired):
        yield finding("T9", "advice", node, "has no pair on the identity, so that its layer writes floats; wanted one")
    behind = [quantized_value(value) for value in node.inputs]
    wasted = [
        value for value in behind if value is not None and pairs.is_narrow(value.producer()) and len(value.uses()) == 1
    ]
    if all(paired) and wasted:
        layer = wasted[-1].producer()
        named = layer.name if layer is not None else ""
        yield finding("T9", "advice", node, f"has a pair behind {named}, which could be fused with it; wanted none")


def _concat_grids(node: ir.Node) -> tuple[list[float], float | None]:
    """Returns the scales of the quantized inputs of a Concat, and that of its output, where it is quantized."""
    if node.op_type != "Concat":
        return [], None
    inputs = [scale for value in node.inputs if (scale := pair_scale(value)) is not None]
    outputs = [scale_of(reader) for reader in readers(node.outputs[0]) if reader.op_type == Q]
    found = next((float(scale.ravel()[0]) for scale in outputs if scale is not None and scale.size == 1), None)
    return inputs, found


def concat_scales(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields joins of several grids (T10)."""
    inputs, output = _concat_grids(node)
    scales = {*inputs, *([] if output is None else [output])}
    if len(scales) > 1 and (output is not None or _feeds_paired(node, builder)):
        listed = ", ".join(f"{scale:.4g}" for scale in sorted(scales))
        yield finding("T10", "advice", node, f"joins grids of the scales {listed}; wanted one for all inputs and it")


def _feeds_paired(node: ir.Node, builder: Builder) -> bool:
    """Returns whether a layer that reads a join has a pair on its weight: the grids keep it from INT8, or cost it."""
    layers = [reader for reader in readers(node.outputs[0]) if reader.op_type in WEIGHTED_OPS]
    return any(builder.pairs.is_quantized(layer.inputs[1]) for layer in layers)


def mixed_ranges(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields joins on a grid that is much coarser than that of an input (T13)."""
    del builder
    inputs, output = _concat_grids(node)
    if output is not None and inputs and output > MAX_RANGE_RATIO * min(inputs):
        said = f"is quantized {output / min(inputs):.0f} times coarser than an input of it; keep its reader in float"
        yield finding("T13", "advice", node, said)


def conv_transpose(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields transposed convolutions whose pairs TensorRT cannot use (T12)."""
    if node.op_type != "ConvTranspose" or node.inputs[1] is None:
        return
    if builder.strongly_typed:
        if all(map(builder.pairs.is_quantized, node.inputs[:2])):
            said = "has pairs, and TensorRT for RTX computes it in float: omit them, or write Conv and DepthToSpace"
            yield finding("T12", "advice", node, said)
        return
    producer = node.inputs[1].producer()
    scale = scale_of(producer) if producer is not None and producer.op_type == DQ else None
    if scale is not None and scale.size > 1:
        yield finding("T12", "error", node, f"has {scale.size} scales for its weight; wanted one")


def large_kernel(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields convolutions whose FP8 pairs TensorRT for RTX cannot use (T12)."""
    positions = kernel_positions(node)
    if builder.strongly_typed and positions > LARGEST_FP8_KERNEL and builder.pairs.is_of_fp8(node):
        said = f"has FP8 pairs and a kernel of {positions} positions, and is computed in float; wanted at most "
        yield finding("T12", "advice", node, f"{said}{LARGEST_FP8_KERNEL}, or no pairs")


def normalization(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields normalisations of dequantized integers (T15)."""
    for said in check_attention.normalization(node, builder.pairs.is_quantized):
        yield finding("T15", "advice", node, said)


def attention(node: ir.Node, builder: Builder) -> Iterator[Finding]:
    """Yields what keeps an attention from the fused INT8 kernel (T16)."""
    for said in check_attention.attention(node, builder.pairs.is_quantized, scales_first=not builder.strongly_typed):
        yield finding("T16", "advice", node, said)
