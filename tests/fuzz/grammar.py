"""From choices to a small valid model: which opset, which inputs, which operators behind one another, which outputs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.fuzz.builder import Builder, UnsuitableError, Value
from tests.fuzz.choices import Choices, Seeded, chance, pick
from tests.fuzz.forms import KINDS, Form, draw_input
from tests.fuzz.narrowing import in_type
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
        form: What is to be known of its inputs besides.
    """

    model: onnx.ModelProto
    seed: int = 0
    keeps_batch: bool = False
    operators: tuple[str, ...] = ()
    form: Form = field(default_factory=Form)

    def __repr__(self) -> str:
        return self.text

    @property
    def free_batch(self) -> bool:
        """Whether the model leaves the batch free."""
        return any(dim.dim_param for dim in self.input.type.tensor_type.shape.dim)

    @property
    def input(self) -> onnx.ValueInfoProto:
        """The input that is fed: it is no initializer, and the preset gives it no value."""
        others = {each.name for each in self.model.graph.initializer} | self.form.given.keys()
        found: onnx.ValueInfoProto = next(each for each in self.model.graph.input if each.name not in others)
        return found

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """What edgeq is given for two runs, with a batch of one."""
        rng = np.random.default_rng(self.seed)
        return tuple(self.form.sample(rng, self._dtype, self._shape) for _ in range(2))

    @cached_property
    def samples(self) -> tuple[dict[str, NDArray[Any]], ...]:
        """What the file is given for them, name -> array."""
        return tuple({self.input.name: self.form.feed(each, self._dtype, self._shape)} for each in self.arrays)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return helper.tensor_dtype_to_np_dtype(self.input.type.tensor_type.elem_type)

    @property
    def _shape(self) -> list[int]:
        return [dim.dim_value or 1 for dim in self.input.type.tensor_type.shape.dim]

    def in_type(self, kind: int) -> Subject:
        """Returns the model in another floating-point type than float32, as a whole.

        Raises:
            UnsuitableError: some operator does not take it.
        """
        dtype = str(np.dtype(helper.tensor_dtype_to_np_dtype(kind)))
        given = {name: (dtype if one == "float32" else one, value) for name, (one, value) in self.form.given.items()}
        return replace(self, model=in_type(self.model, kind), form=replace(self.form, given=given))

    @property
    def text(self) -> str:
        """The model as ONNX text, behind a line that says how it is exported."""
        facts = {"seed": self.seed, "keeps_batch": self.keeps_batch, **self.form.facts}
        return f"# {json.dumps(facts)}\n{onnx.printer.to_text(self.model)}\n"

    @classmethod
    def read(cls, text: str) -> Subject:
        """Returns the model of such a text."""
        facts = json.loads(text.partition("\n")[0].removeprefix("# "))
        return cls(onnx.parser.parse_model(text), facts["seed"], facts["keeps_batch"], form=Form.read(facts))


@dataclass(frozen=True)
class Wishes:
    """What graphs are drawn from.

    Attributes:
        opsets: Of the files.
        makers: What nodes are made by.
        odd: Percent of names and constants that are odd in a graph that has such.
        steps: The most makers in a graph.
        inputs: Kinds of the input (`tests.fuzz.forms`).
    """

    opsets: Sequence[int] = OPSETS
    makers: Collection[Maker] = field(default_factory=lambda: tuple(MAKERS.values()))
    odd: int = 20
    steps: int = MOST_STEPS
    inputs: Sequence[str] = KINDS


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
    odd = wishes.odd if chance(choices, 40) else 0
    b = Builder(choices, opset, free_batch, odd, numbers_seed=choices.integer(0, 999))
    form = draw_input(b, wishes.inputs)
    keeps_batch = b.free_batch and chance(choices, 60)
    kind = pick(choices, (TensorProto.FLOAT,) * 10 + (TensorProto.FLOAT16, TensorProto.DOUBLE))
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
    subject = finish(b, used, seed, keeps_batch, form)
    return subject if kind == TensorProto.FLOAT else subject.in_type(kind)


_TAKES: Mapping[int, str] = {TensorProto.FLOAT: "float", TensorProto.BOOL: "bool", TensorProto.INT64: "integer"}


def _step(b: Builder, makers: Collection[Maker]) -> list[str]:
    """Adds the nodes of one maker; what is left of one that gave up is taken away."""
    usable = [value for value in b.computed if value.kind in _TAKES and 1 <= value.rank <= 5]
    if not usable:
        return []
    # Mostly what came last, so that graphs are deep; else a branch.
    x = usable[-1] if b.chance(65) or len(usable) < 2 else b.pick(usable)
    fitting = [maker for maker in makers if maker.takes == _TAKES[x.kind] for _ in range(maker.weight)]
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
    b: Builder, used: Sequence[str], seed: int = 0, keeps_batch: bool = False, form: Form | None = None, *,
    plain: bool = False,
) -> Subject:  # fmt: skip
    """Returns the model of what was built: what nothing reads is an output, and sometimes more, unless `plain`."""
    computed = [value for value in b.computed if value not in b.inputs and value.kind != TensorProto.UNDEFINED]
    ends = [value for value in computed if value.name not in b.read]
    inner = [value for value in computed if value.name in b.read and value.kind == TensorProto.FLOAT]
    if inner and not plain and b.chance(20):
        ends.append(b.pick(inner))
    if not ends:
        raise UnsuitableError
    ends = ends if plain else [_behind(b, value) for value in ends]
    inputs = [_declared(value, value.shape) for value in b.inputs]
    if b.opset <= 8 or (not plain and b.chance(8)):  # files of that age list their weights among the inputs
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
    subject = Subject(model, seed, keeps_batch, tuple(used), form or Form())
    if b.free_batch:
        _free(model, [each.name for each in model.graph.input].index(subject.input.name))
    return subject


def _free(model: onnx.ModelProto, place: int) -> None:
    """Frees the batch of an input, and declares the outputs by what inference makes of two batches of other sizes."""
    sizes = []
    for batch in (1, 2):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        copied.graph.input[place].type.tensor_type.shape.dim[0].dim_value = batch
        for each in copied.graph.output:
            each.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(copied, data_prop=True)
        except onnx.shape_inference.InferenceError as error:
            raise UnsuitableError from error
        sizes.append([[dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in inferred.graph.output])
    model.graph.input[place].type.tensor_type.shape.dim[0].dim_param = "N"
    for output, one, other in zip(list(model.graph.output), *sizes, strict=True):
        known = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
        if one != known or len(other) != len(one):
            raise UnsuitableError
        # Not every free length is that of the batch.
        dims = [
            length if length == of_two else "N" if (length, of_two) == (1, 2) else f"{output.name}_{axis}"
            for axis, (length, of_two) in enumerate(zip(one, other, strict=True))
        ]
        output.CopyFrom(helper.make_tensor_value_info(output.name, output.type.tensor_type.elem_type, dims))


def _behind(b: Builder, value: Value) -> Value:
    """Returns an output as it is, or behind an operator that exporters leave there, or in another type."""
    if b.chance(10):
        operator = b.pick(["Identity", "Dropout"] if value.kind == TensorProto.FLOAT else ["Identity"])
        return b.many(operator, [value], 1)[0]
    if value.kind == TensorProto.FLOAT and b.chance(5):
        return b.node("Cast", [value], to=b.pick([TensorProto.FLOAT16, TensorProto.DOUBLE]))
    return value


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
            b.inputs.append(image)
            b.computed.append(image)
            try:
                x = host(b, image)
                if maker.takes != "float":
                    x = b.node("Cast", [x], to=TensorProto.BOOL if maker.takes == "bool" else TensorProto.INT64)
                result = maker.make(b, x)
                if result.is_float:
                    _layer_behind(b, result)
                return finish(b, [operator], plain=True)
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
