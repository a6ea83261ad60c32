"""What the shape arithmetic of a graph computes, as far as that is known before the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.exporting.graphs.data_flow import is_repeatable
from edgeq.exporting.graphs.evaluate import evaluate
from edgeq.exporting.graphs.graph import constant, opset_of
from edgeq.exporting.graphs.lengths import Length, Number, compute, product

if TYPE_CHECKING:
    import onnx_ir as ir

_MAX_ELEMENTS = 64
"""No shape has more elements; larger tensors are data."""

_MOVES = frozenset(
    {
        "Gather",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Flatten",
        "Transpose",
        "Expand",
        "Tile",
        "Identity",
        "Split",
    }
)
_COMPARISONS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_ELEMENT_WISE = _COMPARISONS | {
    "Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Floor", "Ceil", "Round", "Abs", "Neg", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class ShapeValue:
    """A tensor of shape arithmetic.

    Attributes:
        elements: Numbers and `Length`s, an object array of the tensor's shape.
        dtype: Type of the tensor.
    """

    elements: np.ndarray
    dtype: np.dtype[np.generic]

    @classmethod
    def of(cls, array: np.ndarray) -> ShapeValue:
        """Returns what is known of a constant: everything."""
        return cls(array.astype(object), array.dtype)

    @property
    def is_known(self) -> bool:
        """Whether no element is unknown."""
        return not any(isinstance(element, Length) for element in self.elements.reshape(-1))

    def array(self) -> np.ndarray:
        """Returns the tensor; all of it must be known."""
        return self.elements.astype(self.dtype)


def shape_values(model: ir.Model) -> dict[ir.Value, ShapeValue]:
    """Returns the tensors of a graph that are computed from shapes, with what is known of each.

    Args:
        model: A cleaned graph with shapes. Names of dimensions count where inputs of the graph have them.
    """
    return _Evaluation(model).run()


def lengths_of(value: ir.Value, names: frozenset[str]) -> list[int | Length] | None:
    """Returns the dimensions of a value; `None` if even their number is unknown.

    Args:
        value: The value.
        names: The names of dimensions that mean the same wherever they occur.
    """
    if value.shape is None:
        return None
    found: list[int | Length] = []
    for axis, dimension in enumerate(value.shape):
        if isinstance(dimension, int):
            found.append(dimension)
        else:
            text = str(dimension.value).replace(" ", "")
            found.append(Length.parse(text, names) or Length.named(f"{value.name}[{axis}]"))
    return found


def input_names(model: ir.Model) -> frozenset[str]:
    """Returns the names of free dimensions of a graph's inputs."""
    dimensions = [dimension for value in model.graph.inputs for dimension in value.shape or ()]
    return frozenset(str(each.value) for each in dimensions if not isinstance(each, int) and each.value is not None)


class _Evaluation:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._opset = opset_of(model)
        self._names = input_names(model)
        self._found: dict[ir.Value, ShapeValue] = {}

    def run(self) -> dict[ir.Value, ShapeValue]:
        for node in self._model.graph:
            results = self._results(node)
            if results is not None:
                self._found.update(zip(node.outputs, results, strict=True))
        return self._found

    def _results(self, node: ir.Node) -> list[ShapeValue] | None:
        if node.op_type in ("Shape", "Size") and not node.domain:
            return self._shape(node)
        if not is_repeatable(node) or not any(value in self._found for value in node.inputs):
            return None
        inputs = [self._known(value) for value in node.inputs]
        if any(each is None and value is not None for each, value in zip(inputs, node.inputs, strict=True)):
            return None
        if all(each is None or each.is_known for each in inputs):
            arrays = evaluate(node, [None if each is None else each.array() for each in inputs], self._opset)
            if arrays is None or any(array.size > _MAX_ELEMENTS for array in arrays):
                return None
            return [ShapeValue.of(array) for array in arrays]
        return self._partly_known(node, [each for each in inputs if each is not None])

    def _known(self, value: ir.Value | None) -> ShapeValue | None:
        if value is None or value in self._found:
            return None if value is None else self._found[value]
        array = constant(value)
        return ShapeValue.of(array) if array is not None and array.size <= _MAX_ELEMENTS else None

    def _shape(self, node: ir.Node) -> list[ShapeValue] | None:
        source = node.inputs[0]
        lengths = None if source is None else lengths_of(source, self._names)
        if lengths is None:
            return None
        if node.op_type == "Size":
            return [_value(np.array(product(lengths), object), np.int64)]
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        return [_value(_vector(lengths[start:end]), np.int64)]

    def _partly_known(self, node: ir.Node, inputs: Sequence[ShapeValue]) -> list[ShapeValue] | None:
        first = inputs[0]
        if node.op_type == "Concat":
            return self._moved(node, inputs)
        if node.op_type in _MOVES and all(each.is_known for each in inputs[1:]):
            return self._moved(node, inputs[:1], [each.array() for each in inputs[1:]])
        if node.op_type == "Cast":
            return [_cast(first, _type_of(node))]
        if node.op_type in _ELEMENT_WISE:
            return [self._element_wise(node, inputs)]
        if node.op_type == "ReduceProd" and len(inputs) == 1 and "axes" not in node.attributes:
            keeps = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int()
            shape = (1,) * first.elements.ndim if keeps else ()
            total = np.array(product(list(first.elements.reshape(-1))), object)
            return [ShapeValue(total.reshape(shape), first.dtype)]
        return None

    def _element_wise(self, node: ir.Node, inputs: Sequence[ShapeValue]) -> ShapeValue:
        dtype = np.dtype(np.bool_) if node.op_type in _COMPARISONS else inputs[-1].dtype
        operator = "Divide" if node.op_type == "Div" and dtype.kind == "f" else node.op_type

        def calculate(*numbers: Number) -> Number:
            if any(isinstance(number, Length) for number in numbers):
                return compute(operator, *numbers)
            arrays = [np.array(number, each.dtype) for number, each in zip(numbers, inputs, strict=True)]
            (found,) = evaluate(node, arrays, self._opset) or [np.array(0)]
            number: Number = found.item()
            return number

        return ShapeValue(_mapped(calculate, inputs), dtype)

    def _moved(
        self, node: ir.Node, moved: Sequence[ShapeValue], others: Sequence[np.ndarray] = ()
    ) -> list[ShapeValue] | None:
        """Returns what comes out of a node that moves elements: it is run on their positions."""
        starts = np.cumsum([0, *(each.elements.size for each in moved)])
        positions = [
            np.arange(start, start + each.elements.size).reshape(each.elements.shape)
            for start, each in zip(starts, moved, strict=False)
        ]
        results = evaluate(node, [*positions, *others], self._opset)
        if results is None or any(result.size > _MAX_ELEMENTS for result in results):
            return None
        every = np.concatenate([each.elements.reshape(-1) for each in moved], dtype=object)
        return [ShapeValue(np.asarray(every[result], object), moved[0].dtype) for result in results]


def _value(elements: np.ndarray, dtype: type[np.generic]) -> ShapeValue:
    return ShapeValue(elements, np.dtype(dtype))


def _vector(lengths: Sequence[Number]) -> np.ndarray:
    vector = np.empty(len(lengths), object)
    vector[:] = lengths
    return vector


def _type_of(cast: ir.Node) -> np.dtype[np.generic]:
    import onnx_ir as ir

    return ir.DataType(cast.attributes["to"].as_int()).numpy()


def _cast(given: ShapeValue, dtype: np.dtype[np.generic]) -> ShapeValue:
    def cast(number: Number) -> Number:
        if not isinstance(number, Length):
            found: Number = np.array(number, given.dtype).astype(dtype).item()
            return found
        if dtype.kind == "b":
            return 1 if number.positive else compute("Cast to bool", number)
        return number if number.is_whole or dtype.kind == "f" else compute("Cast to int", number)

    return ShapeValue(_mapped(cast, [given]), dtype)


def _mapped(function: Callable[..., Number], inputs: Sequence[ShapeValue]) -> np.ndarray:
    """Returns the results of a function of elements, broadcast, as an object array."""
    return np.asarray(np.frompyfunc(function, len(inputs), 1)(*(each.elements for each in inputs)), object)
