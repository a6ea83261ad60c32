"""Conversion between opsets: the graph computes the same, or it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.errors import ModelError
from edgeq.exporting.graphs.graph import opset_of
from tests.exporting import nets


@pytest.mark.parametrize("opset", [17, 18, 19, 21])
def test_a_mean_over_axes_survives(opset):
    text = "g (float[1,4,6,6] x) => (float[1,4,1,1] y) { y = ReduceMean<noop_with_empty_axes=0>(x, axes) }"
    model, x = nets.graph(text, {"axes": np.array([2, 3])}), nets.normal(1, 1, 4, 6, 6)
    converted = nets.in_opset(model, opset)
    assert opset_of(converted) == opset
    np.testing.assert_allclose(nets.run(converted, x)[0], x.mean(axis=(2, 3), keepdims=True), atol=1e-6)


def test_an_operator_that_an_opset_has_not_is_refused():
    model = nets.graph("g (int64[4] x) => (int64[4] y) { y = BitwiseNot(x) }")
    with pytest.raises(ModelError, match=r"node 'node': BitwiseNot is an operator since opset 18; give `opset` 18"):
        nets.in_opset(model, 17)


@pytest.mark.parametrize("text", ["a, b, c = Split<axis=-1, num_outputs=3>(x)", "a, b, c = Split<axis=2>(x, sizes)"])
def test_a_split_survives(text):
    weights = {} if "num_outputs" in text else {"sizes": np.array([2, 2, 2])}
    model = nets.graph(f"g (float[1,4,6] x) => (float[1,4,2] a, float[1,4,2] s) {{ {text} s = Sub(b, c) }}", weights)
    x = nets.normal(2, 1, 4, 6)
    first, difference = nets.run(nets.in_opset(model, 17), x)
    np.testing.assert_array_equal(first, x[:, :, :2])
    np.testing.assert_array_equal(difference, x[:, :, 2:4] - x[:, :, 4:])
