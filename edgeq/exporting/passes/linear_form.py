"""Writes matrix products by constants in one form: `y = x W + b`, by a matrix and a vector. Exact up to float rounding.

Gemm scales its product and its bias, transposes either input and broadcasts a bias of any shape; engines have an INT8
kernel for one of these forms.

Rules, by number:

1. Gemm with a constant matrix: alpha goes into the matrix, beta into a constant bias. The matrix may stay transposed:
   that is how torch has it.
2. A constant bias of one row `(1, N)` or of one number is a vector `(N,)`. Any other bias, one per row or computed, is
   an Add behind.
3. A transposed input is a Transpose before.
4. MatMul by a constant stack of one matrix, `(1, K, N)`, is one by the matrix if its input has as many axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant, new_initializer, walk, weight_of
from edgeq.exporting.graphs.linear import append_add, set_constant
from edgeq.exporting.passes.report import RewriteReport

if TYPE_CHECKING:
    import onnx_ir as ir


def normalize_linear(model: ir.Model) -> RewriteReport:
    """Rewrites every Gemm and MatMul by a constant that is in another form, in place, and returns which.

    Args:
        model: A cleaned graph with shapes.
    """
    done = []
    for node in walk(model):
        weight = weight_of(node)
        if weight is None:
            continue
        if (node.op_type == "Gemm" and _normalize_gemm(model, node, weight)) or (
            node.op_type == "MatMul" and _unstack(model, node, weight)
        ):
            done.append(str(node.name))
    return RewriteReport(tuple(done))


def _normalize_gemm(model: ir.Model, node: ir.Node, weight: np.ndarray) -> bool:
    alpha, beta = _number(node, "alpha", 1.0), _number(node, "beta", 1.0)
    turned = bool(_number(node, "transA", 0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    width = weight.shape[0 if _number(node, "transB", 0) else 1]
    vector = _vector(constant(bias), width)
    fits = bias is None or (vector is not None and vector.shape == bias.shape and beta == 1)
    if alpha == 1 and fits and not turned:
        return False
    if turned:
        _transpose_input(model, node)
    if alpha != 1:
        set_constant(model, node, 1, f"{node.name}.weight", (weight * np.float64(alpha)).astype(weight.dtype))
    if vector is not None and not fits:
        set_constant(model, node, 2, f"{node.name}.bias", (vector * np.float64(beta)).astype(vector.dtype))
    elif bias is not None and vector is None:
        _add_behind(model, node, bias, beta)
    for name in ("alpha", "beta", "transA"):
        node.attributes.pop(name, None)
    return True


def _number(node: ir.Node, name: str, default: float) -> float:
    return float(node.attributes[name].value) if name in node.attributes else default


def _vector(bias: np.ndarray | None, width: int) -> np.ndarray | None:
    """Returns a constant bias as a vector; `None` for one that is computed, or that differs from row to row."""
    if bias is None or bias.size not in (1, width) or bias.shape[-1:] not in ((), (bias.size,)):
        return None
    return np.broadcast_to(bias.reshape(-1), (width,))


def _transpose_input(model: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    source = node.inputs[0]
    assert source is not None  # noqa: S101 - the checker guarantees Gemm's first input
    transpose = ir.node("Transpose", [source], {"perm": [1, 0]}, name=f"{node.name}_transpose")
    result = transpose.outputs[0]
    result.name, result.type = f"{node.name}_transposed", source.type
    result.shape = None if source.shape is None else ir.Shape(reversed(list(source.shape)))
    model.graph.insert_before(node, transpose)
    node.replace_input_with(0, result)


def _add_behind(model: ir.Model, node: ir.Node, bias: ir.Value, beta: float) -> None:
    """Takes the bias of a Gemm out of it and adds it behind."""
    import onnx_ir as ir

    node.replace_input_with(2, None)
    node.resize_inputs(2)
    array = constant(bias)
    if beta != 1 and array is not None:
        bias = new_initializer(model, f"{node.name}.bias", (array * np.float64(beta)).astype(array.dtype))
    elif beta != 1:
        factor = new_initializer(model, f"{node.name}.beta", np.array(beta, np.float32))
        multiply = ir.node("Mul", [bias, factor], name=f"{node.name}_beta")
        scaled = multiply.outputs[0]
        scaled.name, scaled.type, scaled.shape = f"{node.name}_bias", bias.type, bias.shape
        model.graph.insert_before(node, multiply)
        bias = scaled
    append_add(model, node, bias)


def _unstack(model: ir.Model, node: ir.Node, weight: np.ndarray) -> bool:
    """Rule 4."""
    source = node.inputs[0]
    rank = 0 if source is None or source.shape is None else len(source.shape)
    if weight.ndim < 3 or weight.ndim > rank or max(weight.shape[:-2]) != 1:
        return False
    set_constant(model, node, 1, f"{node.name}.weight", weight.reshape(weight.shape[-2:]))
    return True
