"""Pools that round up have as many windows as engines compute, at every opset, with the same values."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.passes.order import SIMPLIFYING, reading, run_passes
from tests.exporting import nets

TEXT = """g (float[1,2,HEIGHT,9] x) => (float[1,2,a,b] y, int64[4] lengths) {
    p = POOL<ceil_mode=1, ATTRIBUTES>(x)
    y = Relu(p)
    lengths = Shape(y)
}"""


@pytest.mark.parametrize("opset", [17, 22])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("height", [8, 7, 10])
@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape=[1,1], strides=[2,2]",
        "kernel_shape=[2,3], strides=[3,2]",
        "kernel_shape=[2,2], strides=[4,3], pads=[1,0,0,1]",
        "kernel_shape=[2,2], strides=[2,2]",
    ],
)
def test_shapes_are_those_that_engines_compute(opset, pool, height, attributes):
    text = TEXT.replace("POOL", pool).replace("ATTRIBUTES", attributes).replace("HEIGHT", str(height))
    source = nets.parse(text, opset=opset)
    model = nets.copy(source)
    run_passes(model, (*reading(18), *SIMPLIFYING))
    x = nets.normal(1, 1, 2, height, 9)
    wanted, found = nets.run(source, x), nets.run(model, x)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_array_equal(found[1], wanted[0].shape)
    shape = model.graph.outputs[0].producer()
    assert shape is not None
    (produced,) = shape.inputs
    assert produced is not None and produced.shape is not None
    assert list(produced.shape) == list(wanted[0].shape)
