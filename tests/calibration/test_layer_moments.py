"""Second moments of what linear layers read, against numpy on the same activations."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration import layer_moments as module
from edgeq.calibration.layer_moments import layer_moments
from edgeq.quantizers.error_feedback import drawn_to_mean
from tests.exporting import nets

TEXT = """g (float[5,8] x) => (float[5,4] y) {
    a = MatMul(x, wa) b = MatMul(x, wb) r = Relu(a) c = Gemm<transB=1>(r, wc, bc) s = Add(c, b)
    t = Gemm<transA=1>(s, wt) l = Log(r) z = MatMul(l, wz) u = MatMul(wt, t) y = Add(z, u) }"""
SHAPES = {"wa": (8, 6), "wb": (8, 16), "wc": (16, 6), "bc": (16,), "wt": (5, 4), "wz": (6, 4)}


@pytest.fixture
def graph():
    return nets.graph(TEXT.replace("u = MatMul(wt, t)", "v = ReduceSum(t) u = Mul(v, h)"), {
        **{name: nets.normal(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())},
        "h": np.ones((1, 4), np.float32),
    })  # fmt: skip


@pytest.mark.parametrize("fits", [True, False])
def test_they_are_those_of_the_inputs_over_all_feeds(graph, fits, monkeypatch):
    if not fits:  # each input by itself
        monkeypatch.setattr(module, "_BYTES", 1)
    names = {str(node.inputs[1].name): str(node.name) for node in graph.graph if node.op_type in ("MatMul", "Gemm")}
    feeds = [{"x": nets.normal(seed, 5, 8)} for seed in range(20, 23)]
    found = dict(layer_moments(graph, names.values(), feeds, 1))
    # A transposed input is no row for row; the logarithm of what a ReLU cut off is not finite.
    assert found.keys() == {names["wa"], names["wb"], names["wc"]}
    x = np.concatenate([feed["x"] for feed in feeds]).astype(np.float64)
    hidden = np.maximum(x @ nets.normal(0, 8, 6), 0)
    for name, rows in (("wa", x), ("wb", x), ("wc", hidden)):
        np.testing.assert_allclose(found[names[name]], drawn_to_mean(rows.T @ rows, len(rows)), rtol=1e-5, atol=1e-6)
    assert dict(layer_moments(graph, [names["wb"]], feeds, 1)).keys() == {names["wb"]}
    assert list(layer_moments(graph, names.values(), [], 1)) == []
