"""LayerNorm's scale and shift in the layers behind it: the same numbers, and what cannot be folded is named."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchvision")

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.passes.layernorm import fold_layernorm_affine
from tests.exporting import encoders, nets

NORM = "n = LayerNormalization(x, gamma, beta)"
AFFINE = {"gamma": nets.positive(1, 6), "beta": nets.normal(2, 6)}


def affine(model, name):
    (node,) = [node for node in model.graph if node.name == name]
    return constant(node.inputs[1]), constant(node.inputs[2])


@pytest.mark.parametrize("opset", encoders.OPSETS)
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_an_encoder_computes_the_same(name, opset):
    before, model = encoders.exported(name, opset), encoders.exported(name, opset)
    report = fold_layernorm_affine(model)
    norms = [node.name for node in model.graph if node.op_type == "LayerNormalization"]
    assert set(norms) == {*report.done, *report.left}
    # CLIP's first norm makes the residual stream itself.
    assert list(report.left) == (norms[:1] if name == "clip" else [])
    assert all("reads it, which is not a Linear layer" in reason for reason in report.left.values())
    for node in report.done:
        gamma, beta = affine(model, node)
        assert (gamma == 1).all() and (beta == 0).all()
    encoders.assert_computes_the_same(model, before)
    assert fold_layernorm_affine(model).done == ()


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_a_free_batch_is_folded_too(name):
    before, model = (encoders.exported(name, 18, dynamic_batch=True) for _ in range(2))
    assert len(fold_layernorm_affine(model).done) == 3
    encoders.assert_computes_the_same(model, before, batch=3)


READERS = {
    "gemm": ("y = Gemm<alpha=0.5, beta=2.0, transB=1>(n, w, b)", {"w": nets.normal(3, 4, 6), "b": nets.normal(4, 4)}),
    "gemm without bias": ("y = Gemm(n, w)", {"w": nets.normal(3, 6, 4)}),
    "matmul and add": ("m = MatMul(n, w) y = Add(b, m)", {"w": nets.normal(3, 6, 4), "b": nets.normal(4, 4)}),
    "matmul": ("m = MatMul(n, w) y = Relu(m)", {"w": nets.normal(3, 6, 4)}),
    "output": ("y = MatMul(n, w)", {"w": nets.normal(3, 6, 4)}),
    "token": ("t = Gather<axis=0>(n, i) y = MatMul(t, w)", {"w": nets.normal(3, 6, 4), "i": np.array([2, 0])}),
    "a shared weight": ("s = MatMul(x, w) t = MatMul(n, w) y = Sub(s, t)", {"w": nets.normal(3, 6, 4)}),
    "a shared bias": (
        "s = MatMul(x, v) r = Add(s, b) m = MatMul(n, w) t = Add(m, b) y = Sub(r, t)",
        {"w": nets.normal(3, 6, 4), "v": nets.normal(5, 6, 4), "b": nets.normal(4, 4)},
    ),
    "an added residual": ("m = MatMul(n, w) y = Add(m, x)", {"w": nets.normal(3, 6, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_every_spelling_of_a_linear_layer(name):
    body, weights = READERS[name]
    model = nets.graph(f"g (float[5,6] x) => (float[N,M] y) {{ {NORM} {body} }}", AFFINE | weights)
    x = nets.normal(0, 5, 6)
    wanted = nets.run(model, x)[0]
    assert len(fold_layernorm_affine(model).done) == 1
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, atol=1e-5)
    assert model.graph.outputs[0].name == "y"


LEFT = {
    "a function": ("y = Relu(n)", "Relu"),
    "one of two readers": ("m = MatMul(n, w) r = Relu(n) y = Add(m, r)", "Relu"),
    "the output": ("m = MatMul(n, w) z = Relu(m) y = Identity(n)", "the output y"),
    "mixed channels": ("t = Transpose(n) y = MatMul(t, w)", "do not reach"),
    "some channels": ("t = Slice(n, zero, three, one) y = MatMul(t, v)", "do not reach"),
    "the other side of a product": ("y = MatMul(w, n)", "not a Linear layer"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_folded_is_named_and_left_alone(name):
    body, reason = LEFT[name]
    weights = {"w": nets.normal(3, 6, 6), "v": nets.normal(3, 3, 6)}
    weights |= {"zero": np.array([0]), "three": np.array([3]), "one": np.array([1])}
    model = nets.graph(f"g (float[6,6] x) => (float[N,M] y) {{ {NORM} {body} }}", AFFINE | weights)
    x = nets.normal(0, 6, 6)
    wanted = nets.run(model, x)[0]
    report = fold_layernorm_affine(model)
    assert report.done == () and reason in next(iter(report.left.values()))
    np.testing.assert_array_equal(nets.run(model, x)[0], wanted)


def test_a_norm_over_more_than_the_last_axis_is_left():
    text = "g (float[5,6] x) => (float[5,4] y) { n = LayerNormalization<axis=0>(x, gamma) y = MatMul(n, w) }"
    model = nets.graph(text, {"gamma": nets.positive(1, 5, 6), "w": nets.normal(3, 6, 4)})
    assert "more than the last axis" in next(iter(fold_layernorm_affine(model).left.values()))


def test_two_norms_that_share_their_constants_are_folded_each_for_itself():
    text = "g (float[5,6] x) => (float[5,6] y) { n = LayerNormalization(x, gamma, beta) a = MatMul(n, w) "
    text += "m = LayerNormalization(a, gamma, beta) y = MatMul(m, w) }"
    model = nets.graph(text, AFFINE | {"w": nets.normal(3, 6, 6)})
    x = nets.normal(0, 5, 6)
    wanted = nets.run(model, x)[0]
    assert len(fold_layernorm_affine(model).done) == 2
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, atol=1e-5)
