"""Which parts of its inputs an operator needs to compute some parts of one axis of its output.

Known are operators that compute each part by itself: element-wise ones, LayerNormalization, Softmax and ReduceMean over
other axes, the rows of a MatMul or Gemm, and what moves values and keeps the axis apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENT_WISE = frozenset(
    {
        "Abs", "Add", "Cast", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
        "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu",
        "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "Where",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """Parts of an axis.

    Attributes:
        axis: Which, not negative.
        indices: Of the parts, in their order.
    """

    axis: int
    indices: tuple[int, ...]

    def along(self, axis: int) -> Choice:
        """Returns the same parts of another axis."""
        return Choice(axis, self.indices)


_Inputs = dict[int, Choice]
_Dim = int | str


def choice_of(node: ir.Node) -> Choice | None:
    """Returns what a Gather or Slice takes of one axis: at most half of it, by constant indices; else `None`."""
    dims = _dims(node.inputs[0]) if node.op_type in ("Gather", "Slice") else None
    parameters = [constant(value) for value in node.inputs[1:]]
    if dims is None or any(array is None for array in parameters):
        return None
    arrays = [array for array in parameters if array is not None]
    if node.op_type == "Slice":
        if any(array.size != 1 for array in arrays):
            return None
        start, stop, *rest = (int(array.item()) for array in arrays)
        axis, step = [*rest, *(0, 1)[len(rest) :]]
        length = dims[axis]
        picked = np.arange(length)[start:stop:step] if isinstance(length, int) else np.empty(0, np.int64)
    else:
        axis, picked = _attribute(node, "axis", 0), arrays[0]
        length = dims[axis]
    if picked.ndim > 1 or not isinstance(length, int) or not 0 < 2 * picked.size <= length:
        return None
    return Choice(axis % len(dims), tuple(int(index) % length for index in picked.reshape(-1)))


def inputs_for(node: ir.Node, choice: Choice) -> _Inputs | None:
    """Returns what a node needs for the chosen parts of its outputs, by the input's number; `None` if it is not known.

    Inputs that it needs whole are not in it.
    """
    rule = _RULES.get(node.op_type)
    if rule is None or node.domain not in ("", "ai.onnx"):
        return None
    output = _dims(node.outputs[0])
    shapes = [dims for value in node.inputs if (dims := [] if value is None else _dims(value)) is not None]
    if output is None or len(shapes) < len(node.inputs):
        return None
    return rule(node, choice, shapes, output)


_Shapes = list[list[_Dim]]


def _element_wise(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    found: _Inputs = {}
    for index, dims in enumerate(shapes):
        axis = choice.axis - len(output) + len(dims)
        if axis < 0 or dims[axis] == 1:
            continue
        if dims[axis] != output[choice.axis]:
            return None
        found[index] = choice.along(axis)
    return found


def _matmul(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    rank, ranks = len(output), [len(dims) for dims in shapes]
    if min(ranks) < 2 or choice.axis == rank - 1:
        return None
    if choice.axis == rank - 2:
        return {0: choice.along(ranks[0] - 2)}
    return _element_wise(node, choice, shapes, output)


def _gemm(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    if choice.axis != 0:
        return None
    bias = _element_wise(node, choice, shapes[2:3], output)
    first = choice.along(1 if _attribute(node, "transA", 0) else 0)
    return None if bias is None else {0: first} | {index + 2: needed for index, needed in bias.items()}


def _layer_norm(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    axis = _attribute(node, "axis", -1) % len(output)
    shared = all(len(dims) <= len(output) - axis for dims in shapes[1:])
    return {0: choice} if choice.axis < axis and len(node.outputs) == 1 and shared else None


def _softmax(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    return {0: choice} if choice.axis != _attribute(node, "axis", -1) % len(output) else None


def _reduce(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    given = [int(axis) for axis in axes] if axes is not None else _attributes(node, "axes")
    others = given and choice.axis not in [axis % len(output) for axis in given]
    return {0: choice} if others and _attribute(node, "keepdims", 1) else None


def _transpose(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    perm = _attributes(node, "perm") or list(range(len(output)))[::-1]
    return {0: choice.along(perm[choice.axis])}


def _reshape(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    """The axis stays apart if its length and the product of all that is before it, or behind it, stay the same."""
    # Without constant axes, a Squeeze would take away the axis of a single part, too.
    if node.op_type in ("Reshape", "Squeeze") and (len(node.inputs) < 2 or constant(node.inputs[1]) is None):
        return None
    length, before, behind = output[choice.axis], output[: choice.axis], output[choice.axis + 1 :]
    for axis, own in enumerate(shapes[0]):
        same_before = _product(shapes[0][:axis]) == _product(before)
        if own == length and (same_before or _product(shapes[0][axis + 1 :]) == _product(behind)):
            return {0: choice.along(axis)}
    return None


def _slice(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    starts, axes = constant(node.inputs[1]), constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if starts is None or (axes is None and len(node.inputs) > 3):
        return None
    cut = range(starts.size) if axes is None else [int(axis) % len(output) for axis in axes]
    return None if choice.axis in cut else {0: choice}


def _gather(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    axis, rank = _attribute(node, "axis", 0) % len(shapes[0]), len(shapes[1])
    if axis <= choice.axis < axis + rank:
        return None
    return {0: choice.along(choice.axis if choice.axis < axis else choice.axis - rank + 1)}


def _split(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    return {0: choice} if choice.axis != _attribute(node, "axis", 0) % len(output) else None


def _concat(node: ir.Node, choice: Choice, shapes: _Shapes, output: list[_Dim]) -> _Inputs | None:
    apart = choice.axis != _attribute(node, "axis", 0) % len(output)
    return dict.fromkeys(range(len(shapes)), choice) if apart else None


_RULES: dict[str, Callable[[ir.Node, Choice, _Shapes, list[_Dim]], _Inputs | None]] = {
    **dict.fromkeys(_ELEMENT_WISE, _element_wise),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "ReduceMean": _reduce,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Transpose": _transpose,
}


def _dims(value: ir.Value | None) -> list[_Dim] | None:
    """Returns the lengths of a tensor's axes, free ones by name; one without a name equals no other."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else str(dim.value or f"? {id(dim)}") for dim in value.shape]


def _product(dims: list[_Dim]) -> tuple[int, list[str]]:
    numbers = [dim for dim in dims if isinstance(dim, int)]
    return int(np.prod(numbers)), sorted(dim for dim in dims if isinstance(dim, str))


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _attributes(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []
