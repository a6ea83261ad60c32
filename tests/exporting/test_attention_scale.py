"""1/sqrt(d) in the weights of queries and keys: the same attention, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchvision")

from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.passes.attention_scale import fold_attention_scale
from tests.exporting import encoders, nets

WIDTH = encoders.WIDTH
QK = np.arange(3 * WIDTH) < 2 * WIDTH


@pytest.mark.parametrize("opset", encoders.OPSETS)
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_an_encoder_computes_the_same(name, opset):
    before, model = encoders.exported(name, opset), encoders.exported(name, opset)
    report = fold_attention_scale(model)
    assert report.left == {} and len(report.done) == (1 if name == "clip" else 2)
    products = [node for node in model.graph if node.op_type == "MatMul" and constant(node.inputs[1]) is None]
    assert len(products) == 2
    assert {node.op_type for node in products[0].predecessors()} <= {"Reshape", "Transpose", "Squeeze"}
    encoders.assert_computes_the_same(model, before)
    assert fold_attention_scale(model).done == ()


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_a_free_batch_is_folded_too(name):
    before, model = (encoders.exported(name, 18, dynamic_batch=True) for _ in range(2))
    report = fold_attention_scale(model)
    assert report.done and report.left == {}
    encoders.assert_computes_the_same(model, before, batch=3)


@pytest.mark.parametrize("name", ["deit", "torchvision"])
def test_of_a_packed_layer_only_queries_and_keys_are_scaled(name):
    def packed(model):
        (array,) = [each for node in model.graph if (each := weight(node)) is not None and each.shape[1] == 3 * WIDTH]
        return array

    def weight(node):
        return constant(node.inputs[1]) if node.op_type == "MatMul" else None

    before, model = packed(encoders.exported(name, 18)), encoders.exported(name, 18)
    fold_attention_scale(model)
    ratio = packed(model) / before
    root = (WIDTH / encoders.HEADS) ** -0.25
    np.testing.assert_allclose(ratio[:, QK], root, rtol=1e-5)
    assert (ratio[:, ~QK] == 1).all()


WEIGHTS = {
    "wq": nets.normal(1, 6, 6), "wk": nets.normal(2, 6, 6), "bq": nets.normal(3, 6), "s": np.array(0.25, np.float32),
    "r": np.array(4, np.float32), "s3": np.full((1, 1, 1), 0.25, np.float32), "mask": nets.normal(4, 5, 5),
    "minus": np.array(-0.25, np.float32), "six": np.full(6, 0.5, np.float32),
}  # fmt: skip
LAYERS = "mq = MatMul(x, wq) q = Add(mq, bq) k = MatMul(x, wk) t = Transpose(k)"


def attention(body: str):
    return nets.graph(f"g (float[5,6] x) => (float[N,M] y) {{ {body} }}", WEIGHTS)


FOLDED = {
    "on the queries": f"{LAYERS} a = Mul(q, s) p = MatMul(a, t) y = Softmax(p)",
    "on the keys, moved": f"{LAYERS} a = Mul(s, t) p = MatMul(q, a) y = Softmax(p)",
    "on the scores": f"{LAYERS} p = MatMul(q, t) a = Mul(p, s) y = Softmax(a)",
    "a division": f"{LAYERS} p = MatMul(q, t) a = Div(p, r) y = Softmax(a)",
    "before a mask": f"{LAYERS} p = MatMul(q, t) a = Mul(p, s) b = Add(a, mask) y = Softmax(b)",
    "behind a mask's other side": f"{LAYERS} p = MatMul(q, t) a = Mul(p, s) b = Add(mask, a) y = Softmax(b)",
}
TWICE = {
    "two on the queries": f"{LAYERS} a = Mul(q, s) b = Div(a, r) p = MatMul(b, t) y = Softmax(p)",
    "on both": f"{LAYERS} a = Mul(q, s) b = Mul(t, s) p = MatMul(a, b) y = Softmax(p)",
    "on queries and scores": f"{LAYERS} a = Mul(q, s) p = MatMul(a, t) b = Mul(p, s) y = Softmax(b)",
}


@pytest.mark.parametrize(("body", "count"), [*((b, 1) for b in FOLDED.values()), *((b, 2) for b in TWICE.values())])
def test_every_place_of_the_scale(body, count):
    model = attention(body)
    x = nets.normal(0, 5, 6)
    wanted = nets.run(model, x)[0]
    report = fold_attention_scale(model)
    assert (len(report.done), report.left) == (count, {})
    assert not {"Mul", "Div"} & set(nets.ops(model))
    np.testing.assert_allclose(nets.run(model, x)[0], wanted, atol=1e-5)


LEFT = {
    "queries are keys": (
        "q = MatMul(x, wq) t = Transpose(q) p = MatMul(q, t) a = Mul(p, s) y = Softmax(a)",
        "other readers",
    ),
    "a second reader": (
        f"{LAYERS} a = Mul(q, s) p = MatMul(a, t) b = Softmax(p) y = MatMul(b, q)",
        "other readers",
    ),
    "no layer": ("k = MatMul(x, wk) t = Transpose(k) a = Mul(x, s) p = MatMul(a, t) y = Softmax(p)", "the input"),
    "a function": (f"{LAYERS} f = Relu(q) a = Mul(f, s) p = MatMul(a, t) y = Softmax(p)", "Relu"),
    "scores with a reader": (
        f"{LAYERS} p = MatMul(q, t) a = Mul(p, s) b = Softmax(a) y = Add(b, p)",
        "another use",
    ),
    "a mask before the scale": (f"{LAYERS} p = MatMul(q, t) b = Add(p, mask) a = Mul(b, s) y = Softmax(a)", "Mul"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_known_is_named_and_left_alone(name):
    body, reason = LEFT[name]
    model = attention(body)
    x = nets.normal(0, 5, 6)
    wanted, ops = nets.run(model, x)[0], nets.ops(model)
    report = fold_attention_scale(model)
    assert report.done == () and reason in next(iter(report.left.values()))
    assert nets.ops(model) == ops
    np.testing.assert_array_equal(nets.run(model, x)[0], wanted)


NOTHING = {
    "a classifier": "m = MatMul(x, wq) a = Add(m, bq) y = Softmax(a)",
    "no scale": f"{LAYERS} p = MatMul(q, t) y = Softmax(p)",
    "more axes": f"{LAYERS} a = Mul(q, s3) b = Squeeze(a, zero) p = MatMul(b, t) y = Softmax(p)",
    "a negative number": f"{LAYERS} a = Mul(q, minus) p = MatMul(a, t) y = Softmax(p)",
    "one number a channel": f"{LAYERS} a = Mul(q, six) p = MatMul(a, t) y = Softmax(p)",
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_scaled_attention_is_not_named(name):
    body = NOTHING[name].replace("Squeeze(a, zero)", "Squeeze(a)")
    report = fold_attention_scale(attention(body))
    assert report.done == () and report.left == {}
