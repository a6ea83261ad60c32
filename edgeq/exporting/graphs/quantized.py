"""Recognises ONNX files that are quantized already, by the operators that their tools write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.data_flow import constant_values
from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""Domains of QuantizeLinear and DequantizeLinear; ONNX Runtime has its own for types that older opsets lack."""

_DYNAMIC = frozenset(
    {
        "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger",
        "MatMulIntegerToFloat",
    }
)  # fmt: skip
_FAKE = frozenset({"BipolarQuant", "IntQuant", "Quant", "Trunc"})
_FAKE_DOMAINS = ("brevitas", "finn", "qonnx")


def quantization_of(model: ir.Model) -> str | None:
    """Returns what kind of quantized model a graph is, in words with its operators; `None` if it computes in float.

    Weights that are stored as integers and dequantized alone make no quantized model.
    """
    constants = constant_values(model)
    found = Counter(entry for node in model.graph.all_nodes() for entry in _kinds(node, constants))
    for kind in ("dynamic INT8", "QOperator", "fake quantization", "Q/DQ"):
        operators = sorted((-count, operator) for (name, operator), count in found.items() if name == kind)
        if operators:
            return f"{kind}: " + ", ".join(f"{-count} {operator}" for count, operator in operators[:3])
    return None


def _kinds(node: ir.Node, constants: Set[ir.Value]) -> Iterator[tuple[str, str]]:
    operator = node.op_type
    if node.domain in DOMAINS and operator in _DYNAMIC:
        yield "dynamic INT8", operator
    elif node.domain in DOMAINS and (operator.startswith("QLinear") or operator in ("QGemm", "QAttention")):
        yield "QOperator", operator
    elif operator in _FAKE and any(name in node.domain for name in _FAKE_DOMAINS):
        yield "fake quantization", operator
    elif node.domain in DOMAINS and (
        operator == "QuantizeLinear" or (operator == "DequantizeLinear" and not _is_constant(node.inputs[0], constants))
    ):
        yield "Q/DQ", operator


def _is_constant(value: ir.Value | None, constants: Set[ir.Value]) -> bool:
    return value in constants or constant(value) is not None  # of a subgraph
