"""Values that are not finite: a mask hides them, or the model is refused by the first tensor that holds them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.observed_model import calibrated_tensors
from edgeq.errors import ModelError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.qdq import insert_qdq
from edgeq.exporting.onnx.writer import FloatModel, plan_int8
from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from edgeq.targets import get_target
from tests.exporting import nets

IMAGES = np.random.default_rng(0).uniform(0, 1, (3, 3, 6, 6)).astype(np.float32)
WEIGHTS = {
    "w": nets.normal(1, 16, 3, 3, 3),
    "wq": nets.normal(2, 16, 16),
    "wk": nets.normal(3, 16, 16),
    "wv": nets.normal(4, 16, 16),
    "flat": np.array([1, 16, 36]),
    "zero": np.zeros((), np.float32),
    "bar": np.full((), 120, np.float32),
    "mask": np.full((), -np.inf, np.float32),
}
# Which logits are hidden is computed, so that the mask stays infinite; the first of each row is shown.
MASKED = """g (float[1,3,6,6] image) => (float[1,36,16] y, int64[1,36] best)
<int64 first = {0}, int64[1] axis = {2}> {
    a = Conv<pads=[1,1,1,1]>(image, w)
    r = Relu(a)
    f = Reshape(r, flat)
    tokens = Transpose<perm=[0,2,1]>(f)
    q = MatMul(tokens, wq)
    k = MatMul(tokens, wk)
    v = MatMul(tokens, wv)
    kt = Transpose<perm=[0,2,1]>(k)
    scores = MatMul(q, kt)
    most = ReduceMax<keepdims=1>(scores, axis)
    less = Less(scores, most)
    negative = Less(scores, zero)
    hidden = And(less, negative)
    masked = Where(hidden, mask, scores)
    p = Softmax<axis=-1>(masked)
    y = MatMul(p, v)
    best = ArgMax<axis=2, keepdims=0>(y)
}"""
# Rows that are hidden altogether have no softmax: NaN, which a guard replaces.
GUARDED = MASKED.replace("hidden = And(less, negative)", "weak = Less(most, bar) hidden = Or(negative, weak)").replace(
    "y = MatMul(p, v)", "unknown = IsNaN(p) guarded = Where(unknown, zero, p) y = MatMul(guarded, v)"
)
BROKEN = """g (float[1,3,6,6] image) => (float[1,8,6,6] y) {
    a = Conv<pads=[1,1,1,1]>(image, w)
    [risky] logs = Log(a)
    b = Relu(logs)
    y = Conv<pads=[1,1,1,1]>(b, w8)
}"""


def opened(text: str) -> FloatModel:
    weights = WEIGHTS | {"w8": nets.normal(5, 8, 16, 3, 3)}
    graph = nets.parse(text, weights)
    run_passes(graph, (*reading(18), *SIMPLIFYING))
    return FloatModel("net", graph, Preprocessing(6, 6, resize="stretch"))


def test_what_a_mask_hides_is_in_no_range():
    model = opened(MASKED)
    ranges = calibrate(model, IMAGES, method="minmax").ranges
    values = np.concatenate([nets.run(with_output(model, "masked"), image[None])[-1].ravel() for image in IMAGES])
    histogram = ranges.histograms["masked"]
    assert np.isneginf(values).any()
    finite = values[np.isfinite(values)]
    np.testing.assert_allclose([histogram.minimum, histogram.maximum], [finite.min(), finite.max()], atol=1e-4)
    assert not histogram.non_finite


def test_rows_without_a_softmax_are_no_obstacle_where_the_model_guards_against_them():
    model = opened(GUARDED)
    hidden = nets.run(with_output(model, "p"), IMAGES[:1])[-1]
    assert np.isnan(hidden).any()
    ranges = calibrate(model, IMAGES, method="minmax").ranges
    assert all(np.isfinite([each.low, each.high]).all() for each in ranges.tensors.values())
    for target in ("x86", "jetson-orin"):
        graph, plan, _ = plan_int8(model, get_target(target), ranges)
        insert_qdq(graph, plan, get_target(target).rules)
        wanted, found = nets.run(model.graph, IMAGES[:1])[0], nets.run(graph, IMAGES[:1])[0]
        assert plan.weights and np.isfinite(found).all()
        np.testing.assert_allclose(found, wanted, atol=0.1 * np.abs(wanted).max())


def test_integers_are_not_observed():
    assert "best" not in calibrated_tensors(opened(MASKED))


def with_output(model: FloatModel, name: str):
    graph = model.copy_graph()
    graph.graph.outputs.append(next(value for node in graph.graph for value in node.outputs if value.name == name))
    return graph


def test_a_broken_model_is_refused_by_the_tensor_where_it_begins():
    with pytest.raises(
        ModelError, match=r"tensor 'logs', which Log 'risky' computes, holds \d+ NaN or infinite values"
    ):
        calibrate(opened(BROKEN), IMAGES, method="minmax")
