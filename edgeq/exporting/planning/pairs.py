"""Which of the tensors on a grid get a Q/DQ pair, by what the target's engine makes of pairs that move values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.attentions import find_attentions
from edgeq.exporting.graphs.graph import data_inputs
from edgeq.exporting.graphs.moves import RESHAPES, moved_inputs, moves_values
from edgeq.exporting.planning.selection import Selection, activation_behind

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.targets import Rules


def tensors_with_pair(model: ir.Model, selection: Selection, rules: Rules) -> tuple[str, ...]:
    """Returns the tensors of a selection that get a Q/DQ pair in the file, in graph order.

    Args:
        model: The float graph.
        selection: What is quantized, and every tensor that lies on a grid for it.
        rules: The target's rules.
    """
    if not rules.pairs_before_moves:
        read = _read_by_int8(model, selection)
        read = _with_pooled(model, selection, read) if rules.pooled_pairs else read
        return _packed(model, selection, read) if rules.whole_projections else read
    kept = _without_pooled(model, selection, rules) if rules.moved_in_float else selection.tensors
    return _without_repeats(model, kept)


def moves_in_float(node: ir.Node, rules: Rules) -> bool:
    """Returns whether the engine moves a map of so few channels faster in float."""
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    return isinstance(channels, int) and channels < rules.moved_in_float.get(node.op_type, 0)


def _without_pooled(model: ir.Model, selection: Selection, rules: Rules) -> tuple[str, ...]:
    """Leaves out tensors that have a pair only because an operator that runs in float moves them to an INT8 layer."""
    quantized = selection.quantized
    needed: set[str] = set()
    for node in reversed(model.graph):
        if node.name in quantized:
            needed.update(str(value.name) for value in data_inputs(node))
            if rules.output_pairs == "required":
                needed.add(str(activation_behind(node).name))
        elif moves_in_float(node, rules) or not moves_values(node):
            continue
        elif not needed.isdisjoint(str(output.name) for output in node.outputs):
            needed.update(str(value.name) for value in moved_inputs(node))
    return tuple(name for name in selection.tensors if name in needed)


def _without_repeats(model: ir.Model, tensors: Sequence[str]) -> tuple[str, ...]:
    """Leaves out reshaped tensors that linear layers alone read, where what was reshaped has a pair on the same grid.

    ONNX Runtime looks for a layer's pair behind a Reshape, and OpenVINO would compute both: a ViT took 1.1 of the time.
    """
    planned = set(tensors)
    repeated: set[str] = set()

    def is_linear(reader: ir.Node) -> bool:
        return reader.op_type in ("MatMul", "Gemm") or str(reader.outputs[0].name) in repeated

    for node in reversed(model.graph):
        source = node.inputs[0] if node.op_type in RESHAPES else None
        if source is not None and source.name in planned and all(is_linear(use.node) for use in node.outputs[0].uses()):
            repeated.add(str(node.outputs[0].name))
    return tuple(name for name in tensors if name not in repeated)


def _read_by_int8(model: ir.Model, selection: Selection) -> tuple[str, ...]:
    quantized = selection.quantized
    read = {value.name for node in model.graph if node.name in quantized for value in data_inputs(node)}
    # TensorRT's fused attention wants a pair directly behind its second product, too.
    roles = selection.transformer.roles
    for node in model.graph:
        if node.name in quantized and (role := roles.get(node.name)) is not None and role.part == "context":
            read.add(node.outputs[0].name)
    return tuple(name for name in selection.tensors if name in read)


def _with_pooled(model: ir.Model, selection: Selection, tensors: Sequence[str]) -> tuple[str, ...]:
    """Adds what a MaxPool reads, where a Concat with a pair joins it with the result, as spatial pyramids do.

    All of them lie on one grid, and a maximum is rounded to the same integer before and behind the pool. TensorRT for
    RTX 1.7.1 makes 215 kernels of YOLOX-nano instead of 218.
    """
    wanted = set(tensors)
    for node in model.graph:
        if node.op_type != "Concat" or node.outputs[0].name not in wanted:
            continue
        joined = {str(value.name) for value in moved_inputs(node)}
        for value in moved_inputs(node):
            pool = value.producer()
            if pool is not None and pool.op_type == "MaxPool":
                wanted |= joined & {str(source.name) for source in moved_inputs(pool)}
    return tuple(name for name in selection.tensors if name in wanted)


def _packed(model: ir.Model, selection: Selection, tensors: Sequence[str]) -> tuple[str, ...]:
    """Has queries, keys and values that one layer computes share one pair, directly behind it.

    They lie on one grid, and values are rounded alike before and behind what moves them. TensorRT for RTX 1.7.1 writes
    all three in one kernel then, and with a pair for each in three: 61 kernels instead of 73 for a ViT of 6 blocks.
    """
    wanted = set(tensors)
    for attention in find_attentions(model, selection.transformer):
        packed, operands = attention.packed, {str(value.name) for value in attention.operands}
        if packed is not None and packed.name in selection.tensors and operands <= wanted:
            wanted = (wanted - operands) | {str(packed.name)}
    return tuple(name for name in selection.tensors if name in wanted)
