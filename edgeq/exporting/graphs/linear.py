"""Linear layers in an ONNX graph: one way to read and to change them, however they are spelled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Linear:
    """A layer `y = x W + b` over the last axis of `x`: Gemm, MatMul, or MatMul with an Add behind it.

    Attributes:
        node: The Gemm or MatMul.
        add: The node that adds the bias of a MatMul; `None` where there is none.
    """

    node: ir.Node
    add: ir.Node | None

    @property
    def name(self) -> str:
        """Name of the Gemm or MatMul."""
        return self.node.name or "?"

    @property
    def output(self) -> ir.Value:
        """What the layer computes, with its bias."""
        return (self.add or self.node).outputs[0]

    @property
    def weight(self) -> np.ndarray:
        """The matrix W `(in, out)`, float64, with Gemm's alpha in it."""
        weight = weight_of(self.node)
        assert weight is not None  # noqa: S101 - `linear_of` has looked
        matrix = weight.astype(np.float64) * _float(self.node, "alpha")
        return matrix.T if _transposed(self.node) else matrix

    @property
    def bias(self) -> np.ndarray:
        """The vector b `(out,)`, float64, with Gemm's beta in it; zeros where there is none."""
        width = self.weight.shape[1]
        if self.add is not None:
            bias = constant(self.add.inputs[_bias_index(self.add)])
        else:
            bias = constant(self.node.inputs[2]) if len(self.node.inputs) > 2 else None
        if bias is None:
            return np.zeros(width)
        return np.broadcast_to(bias.astype(np.float64).reshape(-1) * _float(self.node, "beta"), (width,))

    def replace(self, model: ir.Model, weight: np.ndarray, bias: np.ndarray) -> None:
        """Gives the layer another weight `(in, out)` and bias `(out,)`, in place.

        A constant that others read is left to them. A MatMul without bias gets an Add, if the bias is not zero; what
        the layer computes keeps its name.
        """
        node, dtype = self.node, _dtype(self.node)
        matrix = weight.T if _transposed(node) else weight
        set_constant(model, node, 1, f"{node.name}.weight", matrix.astype(dtype))
        node.attributes.pop("alpha", None)
        had_bias = np.any(self.bias)
        if not np.any(bias) and not had_bias:
            return
        if self.add is not None:
            set_constant(model, self.add, _bias_index(self.add), f"{node.name}.bias", bias.astype(dtype))
        elif node.op_type == "Gemm":
            node.attributes.pop("beta", None)
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            set_constant(model, node, 2, f"{node.name}.bias", bias.astype(dtype))
        else:
            append_add(model, node, new_initializer(model, f"{node.name}.bias", bias.astype(dtype)))


def linear_of(node: ir.Node | None) -> Linear | None:
    """Returns the layer that a Gemm, a MatMul or the Add of a MatMul's bias belongs to, or `None`."""
    if node is None:
        return None
    if node.op_type == "Add":
        index = _bias_index(node)
        product = node.inputs[1 - index] if index >= 0 else None
        layer = linear_of(product.producer()) if product is not None else None
        return layer if layer is not None and layer.add is node else None
    weight = weight_of(node)
    if node.op_type not in ("MatMul", "Gemm") or weight is None or weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        return Linear(node, None) if _gemm_is_linear(node, weight) else None
    return Linear(node, _bias_add(node, weight.shape[1]))


def set_constant(model: ir.Model, node: ir.Node, index: int, name: str, array: np.ndarray) -> None:
    """Gives one input of a node a new constant; the old one's name stays, and a shared one is left to the others."""
    old = node.inputs[index] if index < len(node.inputs) else None
    is_alone = old is not None and len(old.uses()) == 1 and not old.is_graph_output()
    if is_alone and old is not None and old.name is not None and old.name in model.graph.initializers:
        node.replace_input_with(index, None)
        del model.graph.initializers[old.name]
        name = old.name
    node.replace_input_with(index, new_initializer(model, name, array))


def append_add(model: ir.Model, node: ir.Node, bias: ir.Value) -> None:
    """Adds a bias to what a node computes, in place: the sum takes over its name and its readers."""
    import onnx_ir as ir

    product = node.outputs[0]
    add = ir.node("Add", [product, bias], name=f"{node.name}_bias_add")
    result = add.outputs[0]
    result.type, result.shape = product.type, product.shape
    readers = [use for use in product.uses() if use.node is not add]
    model.graph.insert_after(node, add)
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    for index, value in enumerate(model.graph.outputs):
        if value is product:
            model.graph.outputs[index] = result
    result.name, product.name = product.name, f"{product.name}_product"


def without_channels(node: ir.Node) -> str | None:
    """Returns why the constant weight of a Gemm or MatMul has no axis of output channels; `None` if it has one."""
    weight = weight_of(node)
    if node.op_type not in ("Gemm", "MatMul") or weight is None or weight.ndim == 2:
        return None
    return "its weight is a vector" if weight.ndim < 2 else f"its weight is a stack of matrices {weight.shape}"


def _gemm_is_linear(node: ir.Node, weight: np.ndarray) -> bool:
    if "transA" in node.attributes and node.attributes["transA"].as_int():
        return False
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    bias = constant(node.inputs[2])
    return bias is not None and _is_vector(bias, weight.shape[0 if _transposed(node) else 1])


def _bias_add(node: ir.Node, width: int) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    add = uses[0].node
    bias = constant(add.inputs[_bias_index(add)]) if _bias_index(add) >= 0 else None
    return add if bias is not None and _is_vector(bias, width) else None


def _is_vector(bias: np.ndarray, width: int) -> bool:
    return bias.size in (1, width) and bias.shape[-1:] in ((), (bias.size,))


def _bias_index(add: ir.Node) -> int:
    """Returns which input of an Add is constant; -1 for none."""
    return next((index for index, value in enumerate(add.inputs) if constant(value) is not None), -1)


def _transposed(node: ir.Node) -> bool:
    return "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def _float(node: ir.Node, name: str) -> float:
    return node.attributes[name].as_float() if name in node.attributes else 1.0


def _dtype(node: ir.Node) -> np.dtype[np.generic]:
    weight = weight_of(node)
    assert weight is not None  # noqa: S101 - `linear_of` has looked
    return weight.dtype
