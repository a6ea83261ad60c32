"""Activation functions that became operators late, as their definitions. Exact up to float rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeq.exporting.passes.node_builder import NodeBuilder, Rule, attribute

if TYPE_CHECKING:
    import onnx_ir as ir

_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715


def _gelu(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Hendrycks and Gimpel, 2016; `fuse_gelu` gives it the order that engines look for."""
    x = node.inputs[0]
    if attribute(node, "approximate", "none") == "tanh":
        cubic = make("Mul", make("Pow", x, make.like(x, 3.0)), make.like(x, _TANH_CUBIC))
        inner = make("Tanh", make("Mul", make("Add", x, cubic), make.like(x, _TANH_SCALE)))
    else:
        inner = make("Erf", make("Div", x, make.like(x, math.sqrt(2.0))))
    return make("Mul", make("Mul", x, make.like(x, 0.5)), make("Add", inner, make.like(x, 1.0)))


def _mish(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Misra, 2019."""
    x = node.inputs[0]
    return make("Mul", x, make("Tanh", make("Softplus", x)))


def _swish(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Ramachandran et al., 2017."""
    x, alpha = node.inputs[0], attribute(node, "alpha", 1.0)
    scaled = x if alpha == 1 else make("Mul", x, make.like(x, alpha))
    return make("Mul", x, make("Sigmoid", scaled))


def _swiglu(node: ir.Node, make: NodeBuilder) -> ir.Value:
    """Shazeer, 2020."""
    gate, value = node.inputs
    return make("Mul", make("Swish", gate, alpha=attribute(node, "alpha", 1.0)), value)


ACTIVATIONS: dict[tuple[str, int], Rule] = {
    ("Gelu", 20): _gelu,
    ("Mish", 18): _mish,
    ("SwiGLU", 28): _swiglu,
    ("Swish", 24): _swish,
}
