from __future__ import annotations

import numpy as np

from edgeq.exporting.passes.stored_once import store_once
from tests.exporting import nets
from tests.exporting.test_qdq import X86_ORT, quantized

HEAD_OF_TWO_LEVELS = """
    g (float[1, 16, 8, 8] x) => (float[1, 4, 8, 8] near, float[1, 4, 4, 4] far) {
        small = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
        ra = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(small, w, b)
        rc = Relu(c)
        near = Conv(ra, v)
        far = Conv(rc, v)
    }"""
WEIGHTS = {"w": nets.normal(1, 16, 16, 3, 3), "b": nets.normal(2, 16), "v": nets.normal(3, 4, 16, 1, 1)}


def test_layers_that_share_a_weight_share_its_integers_and_compute_the_same() -> None:
    inputs = nets.normal(4, 1, 16, 8, 8)
    model, plan = quantized(nets.graph(HEAD_OF_TWO_LEVELS, WEIGHTS), inputs, X86_ORT)
    assert sorted(plan.weights) and len(plan.weights) == 2
    before, names = nets.run(model, inputs), set(model.graph.initializers)
    report = store_once(model)
    assert report.done == ("w_quantized_1",)
    assert names - set(model.graph.initializers) == {"w_quantized_1"}  # scales and zero points stay, each as it was
    for expected, found in zip(before, nets.run(model, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not store_once(model).changed


def test_constants_that_differ_in_value_shape_or_type_stay_apart() -> None:
    ones = np.ones((16, 16, 3, 3), np.float32)
    constants = {"w": ones, "other": ones * 2, "flat": ones.reshape(-1), "same": ones.copy()}
    text = """
        g (float[1, 16, 8, 8] x) => (float[1, 16, 6, 6] y, float[2304] z) {
            a = Conv(x, w)
            b = Conv(x, other)
            c = Conv(x, same)
            ab = Add(a, b)
            y = Add(ab, c)
            z = Relu(flat)
        }"""
    model = nets.parse(text, constants)
    assert store_once(model).done == ("same",)
    assert set(model.graph.initializers) == {"w", "other", "flat"}
