"""`Builder`: a graph that grows node by node, with the type and shape of everything known at once.

Shapes come from onnx's own inference, one node at a time. What it refuses, or cannot tell, is no graph of ours: a maker
that asks for it ends with `UnsuitableError`, and the grammar tries another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.choices import Choices, chance, pick

T = TypeVar("T")

ODD_NAMES = (
    "{}_scale",
    "{}_quantized",
    "/a/{}/b",
    "{}:0",
    "{} with spaces",
    "größe_{}",
    "{}_dequantized",
    "{}_zero_point",
)
"""What exporters and users call things, and what files of ours call theirs."""


class UnsuitableError(Exception):
    """What was asked for is no valid node here."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: Its name.
        kind: Its element type, of `onnx.TensorProto`.
        shape: Its shape, with 1 for a free batch.
        array: Its elements, if it is a constant.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    array: NDArray[Any] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_float(self) -> bool:
        return self.kind == TensorProto.FLOAT


@dataclass
class Builder:
    """A graph under way.

    Attributes:
        choices: Where decisions come from.
        opset: Of the file.
        free_batch: Whether the first axis of what comes from the image is free.
        odd: How many percent of the names and constants are odd.
        numbers_seed: Of the numbers in constants.
        inputs: Inputs of the graph.
        nodes: What was added.
        initializers: Constants of the graph.
        computed: What nodes wrote, in order.
        read: Names that some node reads.
        functions: Functions of the model's own.
    """

    choices: Choices
    opset: int
    free_batch: bool = False
    odd: int = 0
    numbers_seed: int = 0
    inputs: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    computed: list[Value] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    _count: int = 0

    # Choices ---------------------------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        return self.choices.integer(low, high)

    def pick(self, options: Sequence[T]) -> T:
        if not options:
            raise UnsuitableError
        return pick(self.choices, options)

    def chance(self, percent: int) -> bool:
        return chance(self.choices, percent)

    def since(self, opset: int) -> None:
        """Ends the maker if the file is older."""
        self.require(self.opset >= opset)

    def require(self, holds: bool) -> None:
        """Ends the maker if something does not hold."""
        if not holds:
            raise UnsuitableError

    # Names and numbers -----------------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        """Returns a name that nothing has."""
        self._count += 1
        name = f"{stem}{self._count}"
        if self.odd and self.chance(self.odd):
            # Of an earlier tensor, so that names made of it collide.
            base = self.pick(self.computed).name if self.computed and self.chance(50) else name
            name = self.pick(ODD_NAMES).format(base)
        while any(name == taken for taken in self._taken()):
            name += "_"
        return name

    def _taken(self) -> Sequence[str]:
        outputs = [name for node in self.nodes for name in node.output]
        values = (*self.inputs, *self.computed)
        return [*outputs, *(each.name for each in self.initializers), *(each.name for each in values)]

    def numbers(self, *shape: int) -> NDArray[np.float32]:
        """Returns standard normal numbers, others at each call."""
        self._count += 1
        return np.random.default_rng([self.numbers_seed, self._count]).standard_normal(shape).astype(np.float32)

    def positive(self, *shape: int) -> NDArray[np.float32]:
        """Returns numbers in 0.5..1.5."""
        return (0.5 + 1 / (1 + np.exp(-self.numbers(*shape)))).astype(np.float32)

    # Constants and nodes ---------------------------------------------------------------------------------------------

    def constant(self, array: Any, *, plain: bool = True) -> Value:
        """Returns a constant, which may stand in an odd place.

        Args:
            array: Its value.
            plain: Whether it has to be an initializer or a Constant, because inference needs its value.
        """
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if self.odd and self.chance(self.odd):
            return self._odd_constant(array, plain)
        return self._initializer(array)

    def shared(self, array: Any) -> Value:
        """Returns a constant of that shape and type that other nodes read already, or a new one."""
        array = np.asarray(array)
        same = [
            Value(each.name, each.data_type, tuple(each.dims), numpy_helper.to_array(each))
            for each in self.initializers
            if tuple(each.dims) == array.shape and each.data_type == helper.np_dtype_to_tensor_dtype(array.dtype)
        ]
        return self.pick(same) if same and self.chance(25) else self.constant(array, plain=False)

    def _initializer(self, array: NDArray[Any]) -> Value:
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), self.name("w"))
        self.initializers.append(tensor)
        return Value(tensor.name, tensor.data_type, array.shape, array)

    def _odd_constant(self, array: NDArray[Any], plain: bool) -> Value:
        forms = ["node", "identity"]
        if not plain and array.dtype == np.float32:
            forms += ["product", "half", *(["transposed"] if array.ndim else [])]
        form = self.pick(forms)
        if form == "node":
            name = self.name("c")
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            return Value(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)
        if form == "identity":
            result = self.node("Identity", [self._initializer(array)])
        elif form == "product":
            result = self.node("Mul", [self._initializer(array * 2), self._initializer(np.array(0.5, np.float32))])
        elif form == "transposed":
            result = self.node("Transpose", [self._initializer(array.T)], perm=list(range(array.ndim))[::-1])
        else:
            array = array.astype(np.float16).astype(np.float32)
            result = self.node("Cast", [self._initializer(array.astype(np.float16))], to=TensorProto.FLOAT)
        self.computed.remove(result)
        return Value(result.name, result.kind, result.shape, array)

    def node(
        self, op: str, inputs: Sequence[Value | None], *, shape: Sequence[int] | None = None, **attributes: Any
    ) -> Value:
        """Returns the only output of a new node."""
        return self.many(op, inputs, 1, shapes=None if shape is None else [shape], **attributes)[0]

    def many(
        self,
        op: str,
        inputs: Sequence[Value | None],
        outputs: int,
        *,
        shapes: Sequence[Sequence[int]] | None = None,
        kinds: Sequence[int] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> list[Value]:
        """Returns the outputs of a new node.

        Args:
            op: Operator.
            inputs: `None` for one that is left out.
            outputs: How many.
            shapes: Their shapes, if inference cannot find them.
            kinds: Their types with it.
            domain: Of the operator.
            attributes: By name; `None` leaves one out.

        Raises:
            UnsuitableError: it would not be valid.
        """
        names = [self.name("t") for _ in range(outputs)]
        given = {name: each for name, each in attributes.items() if each is not None}
        node = helper.make_node(
            op, ["" if each is None else each.name for each in inputs], names, self._node_name(), domain=domain, **given
        )
        while node.input and not node.input[-1]:
            node.input.pop()
        if shapes is not None:
            kinds = kinds or [next(each.kind for each in inputs if each is not None)] * outputs
            found = [Value(name, kind, tuple(shape)) for name, kind, shape in zip(names, kinds, shapes, strict=True)]
        else:
            found = infer(node, [each for each in inputs if each is not None], self.opset, domain)
        self.nodes.append(node)
        self.read.update(node.input)
        self.computed += found
        return found

    def _node_name(self) -> str | None:
        if not (self.odd and self.chance(self.odd)):
            return f"n{len(self.nodes)}"
        return self.pick([None, "n0", "n0", "same name/for:all", "größe"])

    def axis(self, value: Value, *, batch: bool = False) -> int:
        """Returns an axis of a tensor, the first only if `batch` or if it is not that of images."""
        low = 0 if batch and not self.free_batch else 1
        self.require(value.rank > low)
        return self.integer(low, value.rank - 1)

    def spelled(self, axis: int, rank: int) -> int:
        """Returns an axis as files write it: from the front or from the back."""
        return axis - rank if self.chance(30) else axis


def infer(node: onnx.NodeProto, inputs: Sequence[Value], opset: int, domain: str = "") -> list[Value]:
    """Returns the outputs of a node by onnx's shape inference.

    Raises:
        UnsuitableError: the node is not valid, or a shape is not known.
    """
    types = {each.name: helper.make_tensor_type_proto(each.kind, each.shape) for each in inputs}
    data = {each.name: numpy_helper.from_array(each.array, each.name) for each in inputs if each.array is not None}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
        if schema.deprecated:
            raise UnsuitableError
        found: Mapping[str, onnx.TypeProto] = onnx.shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=10
        )
        onnx.checker.check_node(node, _context(opset))
    except (
        onnx.defs.SchemaError, onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError
    ) as error:  # fmt: skip
        raise UnsuitableError from error
    values = []
    for name in node.output:
        if name not in found or not found[name].tensor_type.HasField("shape"):
            raise UnsuitableError
        dims = found[name].tensor_type.shape.dim
        if not all(dim.HasField("dim_value") for dim in dims):
            raise UnsuitableError
        values.append(Value(name, found[name].tensor_type.elem_type, tuple(dim.dim_value for dim in dims)))
    return values


def _context(opset: int) -> onnx.checker.C.CheckerContext:
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 10, {"": opset}
    return context
