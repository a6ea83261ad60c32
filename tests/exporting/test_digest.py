"""The digest of a float graph: what decides the outputs changes it, the opset of the targets and the batch do not."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.graphs.digest import graph_digest
from edgeq.exporting.graphs.graph import infer_shapes
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.sizes import make_static
from edgeq.sources.torch_export import export_torch
from tests.exporting import encoders, nets
from tests.small import SIZE, small_centernet

TARGETS_OPSETS = (17, 18, 19)


@functools.cache
def centernet(opset: int, dynamic_batch: bool = False) -> ir.Model:
    example = torch.zeros(1, 3, *SIZE)
    return export_torch(small_centernet(0), example, ["hm", "wh", "reg"], opset=opset, dynamic_batch=dynamic_batch)


MODELS: dict[str, Callable[[], ir.Model]] = {
    "centernet": lambda: nets.copy(centernet(18)),
    **{name: functools.partial(encoders.exported, name, 18) for name in encoders.ENCODERS},
}


def constants(model: ir.Model) -> list[str]:
    """Returns the constants that the digest looks at as they are; a Reshape counts by the shape that it makes."""
    shapes = {node.inputs[1].name for node in model.graph if node.op_type == "Reshape" and node.inputs[1] is not None}
    return [name for name in model.graph.initializers if name not in shapes]


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_every_constant_counts(name: str) -> None:
    model = MODELS[name]()
    found = {graph_digest(model)}
    for constant in constants(model):
        value = model.graph.initializers[constant]
        assert value.const_value is not None
        array = value.const_value.numpy()
        value.const_value = ir.tensor(array + np.array(1, array.dtype), name=constant)
        found.add(graph_digest(model))
        value.const_value = ir.tensor(array, name=constant)
    assert len(found) == 1 + len(constants(model))
    assert len(constants(model)) > 10


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_single_element_counts(data: st.DataObject) -> None:
    model = MODELS["torchvision"]()
    before = graph_digest(model)
    constant = data.draw(st.sampled_from(constants(model)))
    value = model.graph.initializers[constant]
    assert value.const_value is not None
    array = value.const_value.numpy().copy()
    position = data.draw(st.integers(0, array.size - 1))
    array.reshape(-1)[position] += 1
    value.const_value = ir.tensor(array, name=constant)
    assert graph_digest(model) != before


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_and_attribute_counts(name: str) -> None:
    model = MODELS[name]()
    before = graph_digest(model)
    for node in list(model.graph):
        operator, node.op_type = node.op_type, "Another"
        assert graph_digest(model) != before, operator
        node.op_type = operator
        for key, attribute in list(node.attributes.items()):
            if (node.op_type, key) in (("Reshape", "allowzero"), ("Split", "num_outputs")):
                continue  # the shapes that they lead to count
            node.attributes[key] = changed(attribute)
            assert graph_digest(model) != before, (operator, key)
            node.attributes[key] = attribute
    assert graph_digest(model) == before


def changed(attribute: ir.Attr) -> ir.Attr:
    other = {
        ir.AttributeType.INT: lambda: attribute.as_int() + 1,
        ir.AttributeType.FLOAT: lambda: attribute.as_float() + 0.5,
        ir.AttributeType.STRING: lambda: attribute.as_string() + "x",
        ir.AttributeType.INTS: lambda: [*attribute.as_ints(), 7],
    }[attribute.type]()
    return ir.Attr(attribute.name, attribute.type, other)


@pytest.mark.parametrize(
    "other",
    [
        "y = Sub(a, b) z = Relu(y)",
        "y = Sub(b, a) z = Sigmoid(y)",
        "y = Sub(a, b) z = Relu(b)",
        "y = Sub(a, c2) z = Sigmoid(y)",
        "y = Sub(a, b) w = Identity(y) q = Add(w, w) z = Sigmoid(q)",
    ],
)
def test_edges_count(other: str) -> None:
    text = "g (float[1,4] x) => (float[1,4] z) {{ a = Mul(x, c1) b = Add(x, c2) {} }}"
    weights = {"c1": nets.normal(0, 4), "c2": nets.normal(1, 4)}
    model = nets.graph(text.format("y = Sub(a, b) z = Sigmoid(y)"), weights)
    assert graph_digest(model) != graph_digest(nets.graph(text.format(other), weights))


def test_what_a_branch_computes_counts() -> None:
    def branching(operator: str, factor: float = 2.0) -> ir.Model:
        text = (
            "g (float[1,4] x) => (float[1,4] z) { m = ReduceMax<keepdims=0>(x) none = Constant<value_float=0.0>() "
            "is = Greater(m, none) z = If(is) <then_branch = t () => (float[1,4] u) { u = OP(x, f) }, "
            "else_branch = e () => (float[1,4] v) { v = Neg(x) }> }"
        )
        return nets.graph(text.replace("OP", operator), {"f": np.array([factor], np.float32)})

    digests = {graph_digest(branching(*each)) for each in (("Mul", 2.0), ("Add", 2.0), ("Mul", 3.0))}
    assert len(digests) == 3
    assert graph_digest(branching("Mul")) == graph_digest(branching("Mul"))


def test_names_of_tensors_count_and_names_of_nodes_and_constants_do_not() -> None:
    model = MODELS["centernet"]()
    before = graph_digest(model)
    for node in model.graph:
        node.name = f"other_{node.name}"
    for value in list(model.graph.initializers.values()):
        value.name = f"other_{value.name}"
    assert graph_digest(model) == before
    next(iter(model.graph)).outputs[0].name = "renamed"
    assert graph_digest(model) == before  # a ReLU alone reads it
    next(node for node in model.graph if node.op_type == "Relu").outputs[0].name = "renamed_too"
    assert graph_digest(model) != before


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_targets_opsets_have_one_digest(name: str) -> None:
    assert len({graph_digest(encoders.exported(name, opset)) for opset in TARGETS_OPSETS}) == 1


def test_a_detector_has_one_digest_for_all_targets_and_batches() -> None:
    variants = ((17, False), (18, False), (18, True), (19, False))
    assert len({graph_digest(centernet(*each)) for each in variants}) == 1


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("y = ReduceMean<keepdims=1>(x, axes)", {"axes": np.array([2, 3])}),
        ("a, b = Split<axis=1, num_outputs=2>(x) y = Mul(a, b)", {}),
        ("a, b = Split<axis=-3>(x, sizes) y = Mul(a, b)", {"sizes": np.array([2, 2])}),
        ("r = Resize<mode=\"nearest\">(x, none, scales) y = Relu(r)", {"scales": np.array([1, 1, 2, 2], np.float32)}),
        ("r = Resize<mode=\"linear\", axes=[3, 2]>(x, none, scales) y = Relu(r)",
         {"scales": np.array([2, 3], np.float32)}),
        ("r = Resize<mode=\"linear\", antialias=1, axes=[2, 3]>(x, none, none, sizes) y = Relu(r)",
         {"sizes": np.array([3, 4])}),
        ("r = Resize<keep_aspect_ratio_policy=\"not_larger\", axes=[2, 3]>(x, none, none, sizes) y = Relu(r)",
         {"sizes": np.array([9, 12])}),
        ("r = Pad(x, pads, none, axes) y = Relu(r)", {"pads": np.array([1, 2, 0, 1]), "axes": np.array([-1, 2])}),
    ],
)  # fmt: skip
def test_forms_of_opsets_have_one_digest(text: str, weights: dict[str, np.ndarray]) -> None:
    text = text.replace("none", "")
    model = nets.graph(f"g (float[1,4,6,6] x) => (float[N,A,B,C] y) {{ {text} }}", weights)
    digests = set()
    for opset in TARGETS_OPSETS:
        converted = nets.in_opset(model, opset)
        clean(converted)
        digests.add(graph_digest(converted))
    assert len(digests) == 1


def test_a_free_batch_has_the_digest_of_a_fixed_one() -> None:
    """Shapes computed from the batch, and a token that is repeated for it, as torch's older exporter writes."""
    text = """g (float[N,4,3,3] x) => (float[N,B,C] y) {
        s = Shape(x) n = Gather<axis=0>(s, zero) rest = Constant<value_ints=[4,9]>()
        n1 = Unsqueeze(n, first) to = Concat<axis=0>(n1, rest) flat = Reshape(x, to)
        one = Constant<value_ints=[1,9]>() wide = Concat<axis=0>(n1, one) t = Expand(token, wide)
        y = Concat<axis=1>(t, flat)
    }"""
    weights = {"zero": np.array(0), "first": np.array([0]), "token": nets.normal(0, 1, 1, 9)}
    free, fixed = nets.graph(text, weights), nets.graph(text, weights)
    make_static(fixed)
    infer_shapes(fixed)
    clean(fixed)
    assert len(list(fixed.graph)) < len(list(free.graph))
    assert graph_digest(free) == graph_digest(fixed)


def test_it_carries_its_version() -> None:
    assert graph_digest(MODELS["deit"]()).startswith("2:")
