"""Normalisations that a graph writes out as nodes: the difference from a mean over the root of the mean square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class WrittenNorm:
    """One normalisation, from the mean to the shift.

    Attributes:
        source: The tensor that is normalised.
        mean: The node that averages it.
        difference: The node that takes the mean from it.
        square: The node that squares the difference.
        variance: The node that averages the squares.
        quotient: The node that divides the difference by the root.
        affine: The nodes behind it that scale and shift, at most two.
    """

    source: ir.Value
    mean: ir.Node
    difference: ir.Node
    square: ir.Node
    variance: ir.Node
    quotient: ir.Node
    affine: tuple[ir.Node, ...]


def written_norm(quotient: ir.Node) -> WrittenNorm | None:
    """Returns the normalisation that ends in a division; `None` if the node is nothing of the kind."""
    difference, root = (_maker(value) for value in (*quotient.inputs, None, None)[:2])
    mean = _maker(difference.inputs[1]) if difference is not None and difference.op_type == "Sub" else None
    variance = _maker(root.inputs[0]) if root is not None and root.op_type == "Sqrt" else None
    if variance is not None and variance.op_type == "Add":
        variance = next((made for value in variance.inputs if (made := _maker(value)) is not None), None)
    square = _maker(variance.inputs[0]) if variance is not None and variance.op_type == "ReduceMean" else None
    if quotient.op_type != "Div" or difference is None or mean is None or variance is None or square is None:
        return None
    source = difference.inputs[0]
    is_square = square.op_type == "Pow" or (square.op_type == "Mul" and square.inputs[0] is square.inputs[1])
    if not is_square or square.inputs[0] is not difference.outputs[0] or source is None:
        return None
    if mean.op_type != "ReduceMean" or mean.inputs[0] is not source:
        return None
    return WrittenNorm(source, mean, difference, square, variance, quotient, _affine(quotient))


def _affine(quotient: ir.Node) -> tuple[ir.Node, ...]:
    found: list[ir.Node] = []
    for operator in ("Mul", "Add"):
        readers = [use.node for use in (found[-1] if found else quotient).outputs[0].uses()]
        if len(readers) == 1 and readers[0].op_type == operator and any(map(_is_constant, readers[0].inputs)):
            found.append(readers[0])
    return tuple(found)


def _is_constant(value: ir.Value | None) -> bool:
    return constant(value) is not None


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()
