"""Graphs in half, bfloat16 and double precision compute the same in float32, and their ends keep their types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.graphs.names import keeps_names
from edgeq.exporting.passes.cleaning import clean
from edgeq.exporting.passes.float32 import compute_in_float32
from tests.exporting import nets

X = nets.normal(0, 1, 3, 8, 8)
WEIGHTS = {"w": nets.normal(1, 4, 3, 3, 3) / 4, "b": nets.normal(2, 4), "v": nets.normal(3, 4, 2) / 2}
NET = """g (TYPE[1,3,8,8] x) => (TYPE[1,64,2] y, TYPE[1,4,8,8] a, float[1,64,2] f) {
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    a = HardSwish(c)
    s = Reshape(a, shape)
    t = Transpose<perm=[0,2,1]>(s)
    m = MatMul(t, v)
    f = Cast<to=1>(m)
    y = Softmax(m)
}"""
OTHERS = (ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def _inside(model: ir.Model) -> set[str]:
    """Returns what graphs do with tensors that are neither float32 nor integers."""
    return {
        node.op_type
        for node in model.graph.all_nodes()
        if any(value is not None and value.dtype in OTHERS for value in (*node.inputs, *node.outputs))
    }


def _types(values) -> list[tuple[str, str]]:
    return [(value.name, value.dtype.name) for value in values]


@pytest.mark.parametrize(("kind", "dtype", "rounding"), [("float16", np.float16, 2e-2), ("double", np.float64, 1e-5)])
def test_a_graph_of_one_type(kind, dtype, rounding):
    weights = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    model = nets.parse(NET.replace("TYPE", kind), weights | {"shape": np.array([1, 4, 64])})
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": X.astype(dtype)})
    clean(model)
    ends = _types(model.graph.inputs), _types(model.graph.outputs)
    assert compute_in_float32(model).changed and not compute_in_float32(nets.copy(model)).changed
    assert (_types(model.graph.inputs), _types(model.graph.outputs)) == ends
    assert _inside(model) == {"Cast"}
    assert nets.ops(model).count("Cast") == 3  # the one of `f` is no longer needed
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for got, want in zip(nets.run(model, X.astype(dtype)), expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
def test_a_narrow_inside_with_float_ends_loses_its_casts(kind):
    number, dtype = {"FLOAT16": (10, np.float16), "BFLOAT16": (16, ml_dtypes.bfloat16)}[kind]
    text = f"""g (float[1,3,8,8] x) => (float[1,4,8,8] y, float[1,3,8,8] same) {{
        h = Cast<to={number}>(x)
        c = Conv<pads=[1,1,1,1]>(h, w, b)
        l = CastLike(x, c)
        same = Cast<to=1>(l)
        r = Relu(c)
        y = Cast<to=1>(r)
    }}"""
    model = nets.parse(text, {name: WEIGHTS[name].astype(dtype) for name in "wb"})
    clean(model)
    compute_in_float32(model)
    assert nets.ops(model) == ["Conv", "Identity", "Relu"] and _inside(model) == set()
    exact = nets.graph(
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c) }",
        {name: WEIGHTS[name].astype(dtype).astype(np.float32) for name in "wb"},
    )
    (want,) = nets.run(exact, X)
    got, same = nets.run(model, X)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_array_equal(same, X)


def test_constants_in_attributes_and_subgraphs():
    text = """g (float16[4] x, bool c) => (float16[4] y) {
        n = ConstantOfShape<value = double[1] {0.25}>(four)
        h = Cast<to=10>(n)
        y = If(c) <then_branch = t() => (float16[4] p) { k = Cast<to=10>(two)  p = Mul(x, k) },
                   else_branch = e() => (float16[4] q) { s = Add(x, h)  f = Cast<to=1>(s)  q = Cast<to=10>(f) }>
    }"""
    model = nets.parse(text, {"four": np.array([4]), "two": np.array(2, np.float32)})
    x = nets.normal(4, 4).astype(np.float16)
    expected = [nets.run(model, x, np.array(condition))[0] for condition in (True, False)]
    compute_in_float32(model)
    assert _inside(model) == {"Cast"}
    for condition, want in zip((True, False), expected, strict=True):
        (got,) = nets.run(model, x, np.array(condition))
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, want)


def test_doubles_beyond_float32_become_its_ends():
    weights = {"m": np.array([0, np.finfo(np.float64).min, -np.inf, 1e300])}
    model = nets.parse("g (double[4] x) => (double[4] y) { y = Add(x, m) }", weights)
    clean(model)
    compute_in_float32(model)
    (array,) = [constant(value) for value in model.graph.initializers.values()]
    assert array is not None
    limits = np.finfo(np.float32)
    np.testing.assert_array_equal(array, np.array([0, limits.min, -np.inf, limits.max], np.float32))


def test_names_of_the_casts_are_free_and_an_output_may_be_an_input_or_stand_twice():
    text = """g (float16[4] x) => (float16[4] y, float16[4] x, float16[4] y_fp32) {
        x_fp32 = Relu(x)
        y = Neg(x_fp32)
        y_fp32 = Identity(y)
    }"""
    model = nets.parse(text)
    x = nets.normal(5, 4).astype(np.float16)
    expected = nets.run(model, x)
    clean(model)
    keeps_names(compute_in_float32)(model)
    assert _types(model.graph.outputs) == [(name, "FLOAT16") for name in ("y", "x", "y_fp32")]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    for got, want in zip(nets.run(model, x), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_float32_graph_is_left_alone():
    model = nets.graph("g (uint8[1,3,8,8] x) => (float[1,3,8,8] y) { f = Cast<to=1>(x) y = Relu(f) }")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert not compute_in_float32(model).changed
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
