"""A graph step by step computes what it computes at once."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration.reconstruction.walk import Walk
from edgeq.errors import EngineError
from tests.exporting import nets

TEXT = """g (float[1,3,6,6] x) => (float[1,4,6,6] y, float[1,2,6,6] z) {
    t = Relu(x) a = Conv(t, w) b = Sigmoid(a) c = Conv(t, v) y = Add(b, a) z = Relu(c) }"""


def net():
    return nets.graph(TEXT, {"w": nets.normal(0, 4, 3, 1, 1), "v": nets.normal(1, 2, 3, 1, 1)})


def test_tensors_are_those_of_one_run_also_where_they_are_asked_for_behind_their_readers() -> None:
    images = [nets.normal(seed, 1, 3, 6, 6) for seed in range(3)]
    walk = Walk(net(), [{"x": image} for image in images], ["t", "a", "y", "t", "z"], 1)
    found = {**walk.reach(["t"]), **walk.reach(["a", "y"]), **walk.reach(["z"])}
    again = walk.reach(["t"])["t"]  # all that reads it has run
    for index, image in enumerate(images):
        np.testing.assert_array_equal(again[index], np.maximum(image, 0))
        y, z = nets.run(net(), image)
        np.testing.assert_allclose(found["y"][index], y, atol=1e-6)
        np.testing.assert_allclose(found["z"][index], z, atol=1e-6)


def test_a_constant_that_is_set_on_the_way_holds_for_what_comes_behind() -> None:
    image = nets.normal(5, 1, 3, 6, 6)
    walk = Walk(net(), [{"x": image}], ["a", "z"], 1)
    before = walk.reach(["a"])["a"][0]
    weight = nets.normal(7, 2, 3, 1, 1)
    walk.replace("v", weight)
    expected = np.maximum(np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], np.maximum(image, 0)), 0)
    np.testing.assert_allclose(walk.reach(["z"])["z"][0], expected, atol=1e-5)
    assert before.shape == (1, 4, 6, 6)


def test_what_the_engine_cannot_run_is_said() -> None:
    walk = Walk(net(), [{"x": np.zeros((1, 2, 6, 6), np.float32)}], ["y"], 1)
    with pytest.raises(EngineError, match="a part of the graph cannot be run"):
        walk.reach(["y"])
