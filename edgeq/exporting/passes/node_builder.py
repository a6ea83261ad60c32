"""What the rules that bring an operator to another opset share: asking a node, and building what stands for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from edgeq.errors import ModelError

if TYPE_CHECKING:
    import onnx_ir as ir


class NodeBuilder:
    """Builds the nodes that compute what one node computes.

    Constants are Constant nodes: those work in functions and subgraphs too, and `clean` lifts them.

    Attributes:
        nodes: What was built, in order.
    """

    def __init__(self, node: ir.Node, taken: set[str]) -> None:
        """Takes the node and the names that are taken in its model; those that it gives are added."""
        self._node, self._taken = node, taken
        self._label = node.outputs[0].name or node.name or node.op_type
        self.nodes: list[ir.Node] = []

    def __call__(self, op_type: str, *inputs: ir.Value | np.ndarray | None, **attributes: Any) -> ir.Value:
        """Returns the first output of a new node; arrays become constants, attributes that are `None` are omitted."""
        return self.several(1, op_type, *inputs, **attributes)[0]

    def several(
        self, outputs: int, op_type: str, *inputs: ir.Value | np.ndarray | None, **attributes: Any
    ) -> Sequence[ir.Value]:
        """Returns the outputs of a new node."""
        import onnx_ir as ir

        values = [self.constant(each) if isinstance(each, np.ndarray) else each for each in inputs]
        given = {name: value for name, value in attributes.items() if value is not None}
        names = [self._name(op_type.lower()) for _ in range(outputs)]
        node = ir.node(op_type, values, given, num_outputs=outputs, name=names[0])
        for output, name in zip(node.outputs, names, strict=True):
            output.name = name
        self.nodes.append(node)
        return node.outputs

    def constant(self, array: np.ndarray) -> ir.Value:
        """Returns a constant."""
        import onnx_ir as ir

        label = self._name("constant")
        output = ir.Value(name=label, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        output.shape = ir.Shape(array.shape)
        node = ir.node("Constant", [], {"value": ir.tensor(array, name=label)}, outputs=[output], name=label)
        self.nodes.append(node)
        return output

    def _name(self, kind: str) -> str:
        name = base = f"{self._label}_{kind}"
        for count in itertools.count(1):
            if name not in self._taken:
                break
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def ints(self, *numbers: int) -> ir.Value:
        """Returns an int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def like(self, value: ir.Value | None, number: float | np.ndarray) -> ir.Value:
        """Returns a scalar, or an array, of the type of `value`."""
        import onnx_ir as ir

        dtype = value.dtype if value is not None and value.dtype is not None else ir.DataType.FLOAT
        return self.constant(np.array(number, dtype.numpy()))

    def refuse(self, reason: str) -> NoReturn:
        """Raises the error of a node that cannot be brought to another opset.

        Args:
            reason: What was found and what can be done, without a subject.
        """
        raise ModelError(f"node {self._node.name or self._label!r}: {self._node.op_type} {reason}")


Rule = Callable[["ir.Node", NodeBuilder], "Sequence[ir.Value] | ir.Value | None"]
"""Brings a node across one opset: returns what its outputs become, or `None` if it changed the node itself."""


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Returns the value of an attribute, or the default; strings as `str`."""
    return node.attributes[name].value if name in node.attributes else default


def set_attribute(node: ir.Node, name: str, value: Any) -> None:
    """Gives a node an attribute; `None` takes it away."""
    import onnx_ir as ir

    node.attributes.pop(name, None)
    if value is not None:
        node.attributes[name] = ir.convenience.convert_attribute(name, value)


def set_input(node: ir.Node, position: int, value: ir.Value | None) -> None:
    """Gives a node an input; omitted ones before it stay omitted."""
    if len(node.inputs) <= position:
        node.resize_inputs(position + 1)
    node.replace_input_with(position, value)


def input_at(node: ir.Node, position: int) -> ir.Value | None:
    """Returns an input, or `None` where it is omitted."""
    return node.inputs[position] if position < len(node.inputs) else None


def known(value: ir.Value | None) -> np.ndarray | None:
    """Returns the array behind an initializer or a Constant node, or `None` for anything else."""
    import onnx_ir as ir

    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def known_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """Returns the integers behind a constant, or `None`."""
    array = known(value)
    return None if array is None else tuple(int(each) for each in array.reshape(-1))


def dims(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Returns the shape of a value, free lengths as `None`; `None` where even the rank is not known."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def shape_for_reshape(value: ir.Value | None, make: NodeBuilder) -> ir.Value | np.ndarray:
    """Returns the shape of a value as a Reshape takes it: constant where at most one length is free."""
    shape = dims(value)
    if shape is None or shape.count(None) > 1 or 0 in shape:
        return make("Shape", value)
    return np.array([-1 if length is None else length for length in shape], np.int64)


def replace(node: ir.Node, builder: NodeBuilder, results: Sequence[ir.Value]) -> None:
    """Puts what was built in the place of a node. Its outputs keep their names, types and shapes."""
    graph = node.graph
    assert graph is not None  # noqa: S101 - it was found in one
    made = {id(each) for each in builder.nodes}
    values = [each if id(each.producer()) in made else builder("Identity", each) for each in results]
    graph.insert_before(node, builder.nodes)
    for old, new in zip(list(node.outputs), values, strict=False):
        name = old.name or new.name
        new.type, new.shape = old.type or new.type, old.shape or new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = None, name
    graph.remove(node, safe=True)
