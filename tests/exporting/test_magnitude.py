"""Bounds of tensors that nobody observed: never below what the graph computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import Histogram
from edgeq.exporting.graphs.bounds import Magnitudes
from tests.exporting import nets

OPERATORS = {
    "y = MatMul(x, w)": {"w": nets.normal(1, 6, 6)},
    "y = Gemm<transB=1, alpha=2.0>(x, w, b)": {"w": nets.normal(1, 6, 6), "b": nets.normal(2, 6)},
    "m = MatMul(x, w) a = Add(m, b) y = Relu(a)": {"w": nets.normal(1, 6, 6), "b": nets.normal(2, 6) * 9},
    "d = Div(x, root) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)": {
        "root": np.array(2**0.5, np.float32), "one": np.array(1, np.float32), "half": np.array(0.5, np.float32)
    },
    "s = Softmax<axis=-1>(x) y = MatMul(s, x)": {},
    "y = LayerNormalization(x, w, b)": {"w": nets.normal(1, 6) * 5, "b": nets.normal(2, 6)},
    "t = Transpose<perm=[1,0]>(x) s = Sub(t, x) y = Mul(s, s)": {},
}  # fmt: skip


@given(st.sampled_from(sorted(OPERATORS)), st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_no_output_is_larger_than_its_bound(text, seed, scale):
    model = nets.graph(f"g (float[6,6] x) => (float[6,6] y) {{ {text} }}", OPERATORS[text])
    x = np.float32(scale) * nets.normal(seed, 6, 6)
    bound = Magnitudes({"x": Histogram.of(x)}).of(model.graph.outputs[0])
    assert bound is not None
    assert np.abs(nets.run(model, x)[0]).max() <= bound * (1 + 1e-5)


def test_the_worst_input_of_a_convolution_reaches_its_bound():
    weight = nets.normal(1, 4, 3, 3, 3)
    model = nets.graph("g (float[1,3,3,3] x) => (float[1,4,1,1] y) { y = Conv(x, w) }", {"w": weight})
    worst = np.abs(weight).reshape(4, -1).sum(axis=1).argmax()
    x = 7 * np.sign(weight[worst])[None]
    bound = Magnitudes({"x": Histogram.of(x)}).of(model.graph.outputs[0])
    assert np.abs(nets.run(model, x)[0]).max() == pytest.approx(bound, rel=1e-5)


@pytest.mark.parametrize("text", ["y = Exp(x)", "y = MatMul(x, x)", "y = Div(x, x)", "e = Exp(x) y = Add(x, e)"])
def test_what_has_no_bound_is_unknown(text):
    model = nets.graph(f"g (float[6,6] x) => (float[6,6] y) {{ {text} }}")
    magnitudes = Magnitudes({"x": Histogram.of(nets.normal(1, 6, 6))})
    assert magnitudes.of(model.graph.outputs[0]) is None
    observed = Magnitudes({"x": Histogram.of(nets.normal(1, 6, 6)), "y": Histogram.of(np.array([-3, 2], np.float32))})
    assert observed.of(model.graph.outputs[0]) == 3
