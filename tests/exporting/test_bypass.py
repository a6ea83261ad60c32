"""Outputs that repeat something: they keep their names, order, types and values, and readers lose a step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.passes.bypass import bypass_identities
from edgeq.exporting.passes.cleaning import clean
from tests.exporting import nets

W = {"w": nets.normal(0, 3, 3, 1, 1), "k": nets.normal(1, 3)}
X = nets.normal(2, 1, 3, 4, 4)


@pytest.mark.parametrize(
    ("body", "outputs", "left"),
    [
        ("a = Conv(x, w) y = Identity(a)", "y", ["Conv"]),
        ("a = Conv(x, w) y = Dropout(a)", "y", ["Conv"]),
        ("a = Conv(x, w) b = Dropout(a) c = Identity(b) y = Relu(c)", "y", ["Conv", "Relu"]),
        ("a = Conv(x, w) y = Identity(a) z = Dropout(a)", "y, z", ["Conv", "Identity"]),
        ("a = Conv(x, w) y = Identity(a)", "a, y", ["Conv", "Identity"]),
        ("a = Conv(x, w) y = Dropout(a)", "y, a", ["Conv", "Identity"]),
        ("a = Conv(x, w) y = Identity(a) z = Relu(y)", "y, z", ["Conv", "Relu"]),
        ("a = Conv(x, w) y = Relu(a) z = Identity(x)", "y, z", ["Conv", "Relu", "Identity"]),
        ("a = Conv(x, w) y = Relu(a) z = Dropout(x)", "z, y", ["Conv", "Relu", "Identity"]),
        ("a = Conv(x, w) y = Relu(a)", "x, y", ["Conv", "Relu"]),
        ("a = Conv(x, w) y = Dropout(a) b = Identity(y) c = Dropout(b) z = Sqrt(c)", "z", ["Conv", "Sqrt"]),
    ],
)
def test_outputs_stay_what_they_are(body, outputs, left):
    declared = ", ".join(f"float[1,3,4,4] {name}" for name in outputs.split(", "))
    model = nets.parse(f"g (float[1,3,4,4] x) => ({declared}) {{ {body} }}", W)
    expected = nets.run(model, X)
    for _ in range(3):  # what is clean stays as it is
        clean(model)
        assert [value.name for value in model.graph.outputs] == outputs.split(", ")
        assert sorted(nets.ops(model)) == sorted(left)
    for got, want in zip(nets.run(model, X), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_constant_and_a_mask_are_outputs():
    text = """g (float[1,3,4,4] x) => (float[3] y, float[1,3,4,4] z, bool[1,3,4,4] m) {
        y = Identity(k)
        a = Conv(x, w)
        z, m = Dropout(a)
    }"""
    model = nets.parse(text, W)
    expected = nets.run(model, X)
    clean(model)
    assert [value.name for value in model.graph.outputs] == ["y", "z", "m"]
    for got, want in zip(nets.run(model, X), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_subgraph_hands_out_what_is_around_it_through_a_node_of_its_own():
    text = """g (float[4] x, bool c) => (float[4] y) {
        a = Relu(x)
        y = If(c) <then_branch = t() => (float[4] p) { p = Identity(a) }, else_branch = e() => (float[4] q) {
            n = Neg(a)  q = Identity(n) }>
    }"""
    model = nets.parse(text)
    assert bypass_identities(model).changed
    assert [node.op_type for node in model.graph.all_nodes()].count("Identity") == 1
    for condition in (True, False):
        x = nets.normal(3, 4)
        want = np.maximum(x, 0) if condition else -np.maximum(x, 0)
        np.testing.assert_array_equal(nets.run(model, x, np.array(condition))[0], want)


def test_the_output_takes_the_shape_that_was_declared():
    text = "g (float[N,3,4,4] x) => (float[1,3,4,4] y) { a = Conv(x, w) y = Identity(a) }"
    model = nets.parse(text, W)
    bypass_identities(model)
    (output,) = model.graph.outputs
    assert (output.name, output.shape, output.dtype) == ("y", ir.Shape([1, 3, 4, 4]), ir.DataType.FLOAT)
