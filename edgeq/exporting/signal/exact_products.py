"""Integer products of matrices, spelled out so that every engine computes them exactly.

ONNX defines MatMulInteger by sums in int32. ONNX Runtime's kernel for CPUs without VNNI adds pairs of products in
saturating int16 instead, graph optimizations or not; its ConvInteger does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import walk
from edgeq.exporting.graphs.names import keeps_names

if TYPE_CHECKING:
    import onnx_ir as ir


@keeps_names
def spell_out_products(model: ir.Model) -> None:
    """Replaces every MatMulInteger by a MatMul in float64, in place, which holds all sums of int32 exactly.

    Zero points are those of a whole tensor, or of the columns of the second matrix.
    """
    for node in walk(model):
        if node.op_type == "MatMulInteger":
            _spell_out(model, node)


def _spell_out(model: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    added: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value | None], to: ir.DataType | None = None) -> ir.Value:
        new = ir.node(op_type, inputs, None if to is None else {"to": to}, name=f"{node.name}_exact_{len(added)}")
        new.outputs[0].name = str(new.name)
        added.append(new)
        return new.outputs[0]

    factors = []
    for position in (0, 1):
        value = add("Cast", [node.inputs[position]], ir.DataType.DOUBLE)
        zero = node.inputs[position + 2] if len(node.inputs) > position + 2 else None
        factors.append(value if zero is None else add("Sub", [value, add("Cast", [zero], ir.DataType.DOUBLE)]))
    product = add("Cast", [add("MatMul", list(factors))], ir.DataType.INT32)
    old = node.outputs[0]
    product.type, product.shape, name = ir.TensorType(ir.DataType.INT32), old.shape, old.name
    model.graph.insert_before(node, added)
    old.replace_all_uses_with(product, replace_graph_outputs=True)
    model.graph.remove(node, safe=True)
    product.name = name
