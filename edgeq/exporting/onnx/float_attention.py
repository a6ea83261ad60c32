"""Writes attentions whose products stay in float as TensorRT computes them in few kernels.

Rules, by number:

1. Where three INT8 layers compute queries, keys and values of one tensor, they become one layer; every output channel
   keeps its scale (`edgeq.exporting.onnx.joined_projections`).
2. Where one layer computes queries, keys and values, a Clip at the ends of FP16 stands behind it. It changes nothing of
   what fits into FP16, and keeps the layer whole: without it the compiler takes the layer apart and writes its three
   outputs in three kernels, with it in one.
3. In an FP32 file the attention is FP16 between Casts, from what moves queries, keys and values to the two products, up
   to what moves the result; a float projection behind it belongs to it, too. The compiler fuses an attention in FP16,
   and one in FP32 only where it has a single query.
4. An attention with a node that FP16 cannot compute (`edgeq.exporting.planning.fp16_audit`) stays as it is.

Seen with TensorRT for RTX 1.7.1, compute capability 8.6. The files are what every version reads: TensorRT 8.5 to 10
take Casts to FP16 where the builder may use FP16, which INT8 on a Jetson wants anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.attentions import Attention, find_attentions
from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.graphs.moves import REARRANGES
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.graphs.transformer import Transformer
from edgeq.exporting.onnx.joined_projections import join_projections
from edgeq.exporting.tensorrt.strong_typing import FP16_MAX, to_fp16

if TYPE_CHECKING:
    import onnx_ir as ir


def write_float_attention(
    model: ir.Model, transformer: Transformer, in_float: Collection[str], islands: Collection[str], *, in_fp16: bool
) -> None:
    """Rewrites the attentions of a graph with its Q/DQ pairs, in place.

    Args:
        model: The graph.
        transformer: Its encoder blocks.
        in_float: Names of the nodes that could be quantized and stay in float.
        islands: Names of the nodes that stay FP32.
        in_fp16: Whether they become FP16 (rule 3); in a file that is FP16 altogether they are already.
    """
    found = [each for each in find_attentions(model, transformer) if _stays_float(each, in_float, islands)]
    join_projections(model, found)
    _limit(model, found)
    if in_fp16 and found:
        inside = {node for each in found for node in _with_surroundings(each) if node.name not in islands}
        to_fp16(model, [str(node.name) for node in walk(model) if node not in inside])


def _stays_float(attention: Attention, in_float: Collection[str], islands: Collection[str]) -> bool:
    names = [str(node.name) for node in (attention.logits, *attention.between, attention.context)]
    return names[0] in in_float and names[-1] in in_float and not any(name in islands for name in names)


@keeps_names
def _limit(model: ir.Model, attentions: list[Attention]) -> None:
    """Writes the Clip of rule 2."""
    import onnx_ir as ir

    ends: list[ir.Value] = []
    for attention in attentions:
        packed = attention.packed
        producer = packed.producer() if packed is not None else None
        if packed is None or producer is None:
            continue
        if not ends:
            ends = [
                new_initializer(model, f"{name}_fp16", np.array(end, np.float32))
                for name, end in (("least", -FP16_MAX), ("most", FP16_MAX))
            ]
        clip = ir.node("Clip", [packed, *ends], name=f"{packed.name}_limit")
        (limited,) = clip.outputs
        limited.name, limited.shape, limited.type = f"{packed.name}_limited", packed.shape, packed.type
        uses = list(packed.uses())
        model.graph.insert_after(producer, clip)
        for use in uses:
            if use.node is not clip:
                use.node.replace_input_with(use.idx, limited)


def _with_surroundings(attention: Attention) -> Iterator[ir.Node]:
    """Yields the nodes that become FP16: an attention, what moves its operands and its result, a float projection."""
    yield from (attention.logits, *attention.between, attention.context)
    for value in attention.operands:
        node = value.producer()
        while node is not None and node.op_type in REARRANGES and node.inputs[0] is not None:
            yield node
            node = node.inputs[0].producer()
    reader = _only_reader(attention.context)
    while reader is not None and reader.op_type in REARRANGES:
        yield reader
        reader = _only_reader(reader)
    if reader is None or weight_of(reader) is None:
        return
    yield reader
    bias = _only_reader(reader)
    if bias is not None and bias.op_type == "Add" and any(constant(value) is not None for value in bias.inputs):
        yield bias


def _only_reader(node: ir.Node) -> ir.Node | None:
    readers = [use.node for use in node.outputs[0].uses()]
    return readers[0] if len(readers) == 1 else None
