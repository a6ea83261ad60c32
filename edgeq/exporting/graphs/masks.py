"""Masks before a Softmax and guards behind it, and which tensors hold minus infinity because of masks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.moves import MOVES_VALUES, moved_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

SOFTMAX = frozenset({"Softmax", "LogSoftmax"})

HUGE = 1e30
"""Beyond it two masks that are added are infinite, or nearly so."""

_CARRIES = MOVES_VALUES | {"Add", "Sub", "Where", "Mul", "Min", "Max", "Cast", "CastLike", "Trilu", "ScatterND"}
_KEEPS_ROWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity"})


class Mask(NamedTuple):
    """A constant that decides which logits count.

    Attributes:
        node: The Add or Where.
        position: Which of its inputs is the constant.
        array: The constant.
        applies: Where it stands in the logits, broadcast to it; `None` if that is computed.
    """

    node: ir.Node
    position: int
    array: np.ndarray
    applies: np.ndarray | None


def masks_before(softmax: ir.Node) -> Iterator[Mask]:
    """Yields the constants that are added to the logits of a Softmax, or that replace some, last ones first.

    Only those whose rows are the rows of the Softmax, which goes over the last axis, and whose results nothing else
    reads.
    """
    value = softmax.inputs[0]
    rank = 0 if value is None or value.shape is None else len(value.shape)
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    if not rank or axis % rank != rank - 1:
        return
    while value is not None and (node := value.producer()) is not None:
        if len(value.uses()) > 1 or value.is_graph_output():
            return
        given = value
        if node.op_type == "Add":
            index = next((each for each in (0, 1) if constant(node.inputs[each]) is not None), None)
            if index is None:
                return
            array = constant(node.inputs[index])
            assert array is not None  # noqa: S101 - just seen
            yield Mask(node, index, array, np.ones((), np.bool_))
            value = node.inputs[1 - index]
        elif node.op_type == "Where":
            index = next((each for each in (1, 2) if constant(node.inputs[each]) is not None), None)
            if index is None:
                return
            array, condition = constant(node.inputs[index]), constant(node.inputs[0])
            assert array is not None  # noqa: S101 - just seen
            applies = None if condition is None else (condition if index == 1 else ~condition)
            yield Mask(node, index, array, applies)
            value = node.inputs[3 - index]
        elif node.op_type in _KEEPS_ROWS:
            value = node.inputs[0]
        else:
            return
        if value is None or _row(value) is None or _row(value) != _row(given):
            return


def guarded(node: ir.Node) -> ir.Value | None:
    """Returns the value that a Where hands on except where it is NaN; `None` of another node."""
    condition = node.inputs[0].producer() if node.op_type == "Where" and node.inputs[0] is not None else None
    if condition is None or condition.op_type != "IsNaN" or node.inputs[2] is not condition.inputs[0]:
        return None
    return node.inputs[2]


def _row(value: ir.Value) -> int | None:
    """Returns the length of a value's last axis, if it is known and more than one number."""
    length = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return length if isinstance(length, int) and length > 1 else None


def infinite_values(model: ir.Model) -> set[ir.Value]:
    """Returns the tensors that may hold minus infinity because a constant does: logits behind a mask."""
    found = {
        value
        for value in model.graph.initializers.values()
        if any(use.node.op_type in _CARRIES for use in value.uses()) and _holds_minus_infinity(value)
    }
    constants = set(found)
    for node in model.graph:
        carried = moved_inputs(node) if node.op_type in MOVES_VALUES else node.inputs
        if node.op_type in _CARRIES and any(value in found for value in carried):
            found.update(node.outputs)
    return found - constants


def _holds_minus_infinity(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.dtype.kind == "f" and array.size > 0 and bool(array.min() < -HUGE)
