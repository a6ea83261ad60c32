"""Types that older opsets do not take, and what they cannot say about them. Exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.passes.node_builder import (
    NodeBuilder,
    Rule,
    attribute,
    dims,
    input_at,
    known_ints,
    set_attribute,
    set_input,
)  # fmt: skip

if TYPE_CHECKING:
    import onnx_ir as ir


def _only_for_float8(*names: str) -> Rule:
    """Returns the rule that takes attributes away which mean nothing to types that the older opset has."""

    def drop(node: ir.Node, make: NodeBuilder) -> None:
        for name in names:
            set_attribute(node, name, None)

    return drop


def _of_booleans(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    import onnx_ir as ir

    source = node.inputs[0]
    if source is None or source.dtype != ir.DataType.BOOL:
        return None
    number = make("Cast", source, to=int(ir.DataType.UINT8))
    rest = {name: each.value for name, each in node.attributes.items()}
    return make("Cast", make(node.op_type, number, *node.inputs[1:], **rest), to=int(ir.DataType.BOOL))


def _quantize(node: ir.Node, make: NodeBuilder) -> None:
    import onnx_ir as ir

    if attribute(node, "block_size", 0):
        make.refuse("has a scale per block, which opsets below 21 cannot say; quantize the model per channel")
    wanted, scale = attribute(node, "output_dtype", 0), dims(node.inputs[1])
    if wanted and input_at(node, 2) is None:
        if scale is None or None in scale:
            make.refuse("has a scale of unknown shape; export the model with constant scales")
        set_input(node, 2, make.constant(np.zeros([each or 0 for each in scale], ir.DataType(wanted).numpy())))
    set_attribute(node, "output_dtype", None)
    set_attribute(node, "block_size", None)


def _dequantize(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    if attribute(node, "block_size", 0):
        make.refuse("has a scale per block, which opsets below 21 cannot say; quantize the model per channel")
    set_attribute(node, "block_size", None)
    return None


def _dequantized_to(node: ir.Node, make: NodeBuilder) -> ir.Value | None:
    scale, wanted = node.inputs[1], attribute(node, "output_dtype", 0)
    if not wanted or (scale is not None and scale.dtype is not None and wanted == int(scale.dtype)):
        set_attribute(node, "output_dtype", None)
        return None
    rest = {name: each.value for name, each in node.attributes.items() if name != "output_dtype"}
    return make("Cast", make(node.op_type, *node.inputs, **rest), to=wanted)


def _known_reduction(node: ir.Node, make: NodeBuilder) -> None:
    if attribute(node, "reduction", "none") in ("max", "min"):
        make.refuse("keeps the largest or smallest, which opsets below 18 cannot say; give `opset` 18")


def _dft(node: ir.Node, make: NodeBuilder) -> None:
    axis = known_ints(input_at(node, 2)) if input_at(node, 2) is not None else (-2,)
    rank = len(dims(node.inputs[0]) or ())
    if axis is None or not rank:
        make.refuse("has a computed axis, which opsets below 20 cannot say; export the model with a constant one")
    node.resize_inputs(min(len(node.inputs), 2))
    set_attribute(node, "axis", axis[0] % rank)


TYPES: dict[tuple[str, int], Rule] = {
    ("Cast", 19): _only_for_float8("saturate"),
    ("Cast", 24): _only_for_float8("round_mode"),
    ("CastLike", 19): _only_for_float8("saturate"),
    ("CastLike", 24): _only_for_float8("round_mode"),
    ("DFT", 20): _dft,
    ("DequantizeLinear", 21): _dequantize,
    ("DequantizeLinear", 23): _dequantized_to,
    ("QuantizeLinear", 19): _only_for_float8("saturate"),
    ("QuantizeLinear", 21): _quantize,
    ("QuantizeLinear", 23): _only_for_float8("precision"),
    ("ReduceMax", 20): _of_booleans,
    ("ReduceMin", 20): _of_booleans,
    ("ScatterElements", 18): _known_reduction,
    ("ScatterND", 18): _known_reduction,
}
