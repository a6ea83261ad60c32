"""From choices to a small valid model: which opset, which inputs, which operators behind one another, which outputs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.fuzz.builder import Builder, UnsuitableError, Value
from tests.fuzz.choices import Choices, Seeded, chance, pick
from tests.fuzz.operators import MAKERS, Maker
from tests.fuzz.operators.control import OWN_DOMAIN, own_function

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

OPSETS = (17, 13, 11, 18, 20, 16, 7, 9, 12, 15, 19, 21, 22, 23, 8, 10, 14)
"""Of the files, the commonest first."""

MOST_STEPS = 8
_IR_VERSIONS = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


@dataclass(frozen=True, repr=False)
class Subject:
    """A model to export.

    Attributes:
        model: The file.
        seed: Of the numbers that its inputs hold.
        keeps_batch: Whether a free batch is to stay free in the exported files.
        operators: Makers that built it.
    """

    model: onnx.ModelProto
    seed: int = 0
    keeps_batch: bool = False
    operators: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.text

    @property
    def free_batch(self) -> bool:
        """Whether the model leaves the batch free."""
        return any(each.type.tensor_type.shape.dim[0].dim_param for each in self.inputs)

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs without initializers."""
        initializers = {each.name for each in self.model.graph.initializer}
        return [each for each in self.model.graph.input if each.name not in initializers]

    @cached_property
    def samples(self) -> tuple[dict[str, NDArray[np.float32]], ...]:
        """Two sets of inputs, name -> array, with a batch of one."""
        rng = np.random.default_rng(self.seed)
        shapes = {each.name: [dim.dim_value or 1 for dim in each.type.tensor_type.shape.dim] for each in self.inputs}
        return tuple(
            {name: rng.uniform(-2, 2, shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(2)
        )

    @property
    def text(self) -> str:
        """The model as ONNX text, behind a line that says how it is exported."""
        facts = {"seed": self.seed, "keeps_batch": self.keeps_batch}
        return f"# {json.dumps(facts)}\n{onnx.printer.to_text(self.model)}\n"

    @classmethod
    def read(cls, text: str) -> Subject:
        """Returns the model of such a text."""
        facts = json.loads(text.partition("\n")[0].removeprefix("# "))
        return cls(onnx.parser.parse_model(text), facts["seed"], facts["keeps_batch"])


@dataclass(frozen=True)
class Wishes:
    """What graphs are drawn from.

    Attributes:
        opsets: Of the files.
        makers: What nodes are made by.
        odd: Percent of names and constants that are odd in a graph that has such.
        steps: The most makers in a graph.
    """

    opsets: Sequence[int] = OPSETS
    makers: Collection[Maker] = field(default_factory=lambda: tuple(MAKERS.values()))
    odd: int = 20
    steps: int = MOST_STEPS


def subjects(wishes: Wishes | None = None) -> SearchStrategy[Subject]:
    """Returns a strategy of hypothesis for models."""
    from hypothesis import reject, strategies

    def of_seed(seed: int) -> Subject:
        try:
            return build(Seeded(seed), wishes or Wishes())
        except UnsuitableError:
            reject()

    return strategies.integers(0, 2**32 - 1).map(of_seed)


def build(choices: Choices, wishes: Wishes) -> Subject:
    """Returns a model.

    Raises:
        UnsuitableError: nothing came of the choices.
    """
    opset = pick(choices, wishes.opsets)
    seed, free_batch = choices.integer(0, 99), chance(choices, 40)
    keeps_batch = free_batch and chance(choices, 60)
    odd = wishes.odd if chance(choices, 40) else 0
    b = Builder(choices, opset, free_batch, odd, numbers_seed=choices.integer(0, 999))
    image = _image(b)
    b.computed.append(image)
    used: list[str] = []
    for _ in range(2 * wishes.steps):
        choices.begin()
        # Asked for of the first step too, so that each begins with the same choices.
        if chance(choices, 10) and used:
            break
        used += _step(b, wishes.makers)
        if len(used) == wishes.steps:
            break
    choices.begin()
    return finish(b, image, used, seed, keeps_batch)


def _image(b: Builder) -> Value:
    channels, side = b.pick([3, 3, 1]), b.pick([8, 6, 7, 12])
    name = b.pick(["input", "images", "x:0", "data/with/slashes"]) if b.odd else "image"
    return Value(name, TensorProto.FLOAT, (1, channels, side, side if b.chance(70) else side + 1))


def _step(b: Builder, makers: Collection[Maker]) -> list[str]:
    """Adds the nodes of one maker; what is left of one that gave up is taken away."""
    usable = [value for value in b.computed if value.kind != TensorProto.UNDEFINED and 1 <= value.rank <= 5]
    # Mostly what came last, so that graphs are deep; else a branch.
    x = usable[-1] if b.chance(65) or len(usable) < 2 else b.pick(usable)
    kinds: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.BOOL: "bool", TensorProto.INT64: "integer"}
    takes = kinds.get(x.kind)
    fitting = [maker for maker in makers if maker.takes == takes for _ in range(maker.weight)]
    if not fitting:
        return []
    maker = b.pick(fitting)
    before = len(b.nodes), len(b.initializers), len(b.computed), set(b.read)
    try:
        result = maker.make(b, x)
    except UnsuitableError:
        del b.nodes[before[0] :], b.initializers[before[1] :], b.computed[before[2] :]
        b.read = before[3]
        return []
    if result in b.computed:  # what came last is what the next step takes
        b.computed.remove(result)
        b.computed.append(result)
    return [maker.operator]


def finish(
    b: Builder, image: Value, used: Sequence[str], seed: int = 0, keeps_batch: bool = False, *, plain: bool = False
) -> Subject:
    """Returns the model of what was built: what nothing reads is an output, and sometimes more, unless `plain`."""
    ends = [
        value for value in b.computed
        if value is not image and value.kind != TensorProto.UNDEFINED and value.name not in b.read
    ]  # fmt: skip
    inner = [value for value in b.computed[1:] if value.name in b.read and value.kind == TensorProto.FLOAT]
    if inner and not plain and b.chance(20):
        ends.append(b.pick(inner))
    if not ends:
        raise UnsuitableError
    ends = [_renamed(b, value) if not plain and b.chance(10) else value for value in ends]
    inputs = [_declared(image, image.shape)]
    if b.opset <= 8:  # files of that age list their weights among the inputs
        inputs += [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in b.initializers]
    outputs = [_declared(value, value.shape) for value in ends]
    graph = helper.make_graph(b.nodes, "fuzz", inputs, outputs, b.initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=_IR_VERSIONS.get(b.opset, 10)
    )
    if any(node.domain == OWN_DOMAIN for node in b.nodes):
        model.ir_version = max(model.ir_version, 8)
        model.opset_import.append(helper.make_opsetid(OWN_DOMAIN, 1))
        model.functions.append(own_function(b.opset))
    if b.free_batch:
        _free(model, image)
    return Subject(model, seed, keeps_batch, tuple(used))


def _free(model: onnx.ModelProto, image: Value) -> None:
    """Frees the batch, and declares the outputs by what inference makes of two batches of other sizes."""
    sizes = []
    for batch in (1, 2):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        copied.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        for each in copied.graph.output:
            each.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(copied, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise UnsuitableError from error
        sizes.append([[dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in inferred.graph.output])
    model.graph.input[0].CopyFrom(_declared(image, ["N", *image.shape[1:]]))
    for output, one, other in zip(list(model.graph.output), *sizes, strict=True):
        known = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        if one != known or len(other) != len(one):
            raise UnsuitableError
        dims = [length if length == of_two else "N" for length, of_two in zip(one, other, strict=True)]
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, dims))


def _renamed(b: Builder, value: Value) -> Value:
    """Returns an output behind an operator that exporters leave there."""
    operator = b.pick(["Identity", "Dropout"] if value.kind == TensorProto.FLOAT else ["Identity"])
    return b.many(operator, [value], 1)[0]


def _declared(value: Value, dims: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.kind, dims)


def alone(operator: str, choices: Choices, opsets: Sequence[int]) -> Subject:
    """Returns a model of one maker behind a layer, and before another if it gives floats.

    Raises:
        UnsuitableError: it does not fit any of the opsets.
    """
    maker = MAKERS[operator]
    for opset in opsets:
        for host in _HOSTS:
            b = Builder(choices, opset)
            image = Value("image", TensorProto.FLOAT, (1, 3, 8, 8))
            b.computed.append(image)
            try:
                x = host(b, image)
                if maker.takes != "float":
                    x = b.node("Cast", [x], to=TensorProto.BOOL if maker.takes == "bool" else TensorProto.INT64)
                result = maker.make(b, x)
                if result.is_float:
                    _layer_behind(b, result)
                return finish(b, image, [operator], plain=True)
            except UnsuitableError:
                continue
    raise UnsuitableError


def _map(b: Builder, image: Value) -> Value:
    weight = b.constant(b.numbers(4, 3, 3, 3) / 5)
    return b.node("Conv", [image, weight, b.constant(b.numbers(4))], pads=[1] * 4)


def _row(b: Builder, image: Value) -> Value:
    mapped = b.node("Conv", [image, b.constant(b.numbers(1, 3, 3, 3) / 5)], pads=[1] * 4)
    return b.node("Flatten", [mapped])


def _pooled(b: Builder, image: Value) -> Value:
    return b.node("GlobalAveragePool", [_map(b, image)])


def _layer_behind(b: Builder, value: Value) -> None:
    """Adds a layer that is not the last, which would stay in float."""
    if value.rank == 4:
        weight = b.constant(b.numbers(4, value.shape[1], 3, 3) / 5)
        mapped = b.node("Relu", [b.node("Conv", [value, weight, b.constant(b.numbers(4))], pads=[1] * 4)])
        b.node("GlobalAveragePool", [mapped])
    elif value.rank in (2, 3):
        weight = b.constant(b.numbers(value.shape[-1], 4) / 5)
        b.node("Tanh", [b.node("MatMul", [value, weight])])


_HOSTS = (_map, _row, _pooled)
