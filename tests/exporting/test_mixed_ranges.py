"""How different the inputs of a Concat are, wherever their values come from."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.planning.mixed_ranges import range_ratio
from tests.exporting import nets

PYRAMID = """agraph (float[1, 3, 8, 8] x) => (float[1, 2, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, wa) ra = Relu(a)
    b = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, wa) rb = Relu(b)
    c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, wa) rc = Relu(c)
    deep = Concat<axis = 1>(rb, rc)
    up = Resize<mode = "nearest">(deep, , scales)
    pooled = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(ra)
    j = Concat<axis = 1>(pooled, up)
    d = Conv(j, wd) y = Conv(d, wy) }"""
WEIGHTS = {
    "wa": nets.normal(1, 4, 3, 3, 3), "wd": nets.normal(2, 4, 12, 1, 1), "wy": nets.normal(3, 2, 4, 1, 1),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip


@pytest.mark.parametrize(
    ("widths", "ratio"),
    [
        ({"ra": 1.0, "rb": 3.0, "rc": 12.0}, 12.0),
        ({"ra": 24.0, "rb": 3.0, "rc": 12.0}, 2.0),  # the joined input is as wide as its widest part
        ({"ra": 1.0, "rc": 12.0}, 12.0),
        ({"ra": 1.0}, 1.0),  # nothing is known of the other
    ],
)
def test_an_input_is_as_wide_as_the_widest_tensor_that_its_values_come_from(widths, ratio):
    concat = next(node for node in nets.graph(PYRAMID, WEIGHTS).graph if node.outputs[0].name == "j")
    assert range_ratio(concat, widths) == ratio
