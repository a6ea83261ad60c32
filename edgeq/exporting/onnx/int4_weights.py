"""Weights of W4A8 files: stored as INT4, which opset 21 has, and widened to INT8 before the DequantizeLinear.

Both x86 engines compute the Cast once, when they load the file, and run the layer by their INT8 kernel. Without it ONNX
Runtime 1.32 computes the layer in float: a convolution of 64 channels took four times as long (measured, AVX-512 VNNI).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import constant, new_initializer
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.exporting.planning.plan import QuantPlan

W4A8 = "w4a8"
"""The precision, as manifests, file names and schemes have it."""

INT4_OPSET = 21
"""The first with integers of 4 bits."""


@keeps_names
def store_in_four_bits(model: ir.Model, plan: QuantPlan) -> int:
    """Stores the weights of 4 bits of a graph with Q/DQ pairs as INT4, in place, and returns how many layers have one.

    Args:
        model: The graph, with the plan's pairs, in opset 21 or higher.
        plan: The plan.
    """
    narrow = {name for name, weight in plan.weights.items() if weight.scheme.is_integer and weight.scheme.bits == 4}
    for node in list(model.graph):
        if node.name in narrow and node.inputs[1] is not None:
            dequantize = node.inputs[1].producer()
            if dequantize is not None:
                _widen_on_loading(model, dequantize)
    return len(narrow)


def _widen_on_loading(model: ir.Model, dequantize: ir.Node) -> None:
    import ml_dtypes
    import onnx_ir as ir

    old = dequantize.inputs[0]
    integers = constant(old)
    if old is None or integers is None:
        return
    stored = new_initializer(model, f"{old.name}_int4", integers.astype(ml_dtypes.int4))
    cast = ir.node("Cast", [stored], {"to": ir.DataType.INT8}, name=f"{old.name}_widen")
    (result,) = cast.outputs
    result.name, result.shape, result.type = f"{old.name}_widened", old.shape, old.type
    model.graph.insert_before(dequantize, cast)
    dequantize.replace_input_with(0, result)
    if not old.uses():
        del model.graph.initializers[str(old.name)]
