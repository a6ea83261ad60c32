"""Gathers of channels, which OpenVINO fuses wrongly, are gone from files for x86, and the sums are the same."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.exporting.graphs.graph import save_onnx
from edgeq.exporting.passes.order import for_engine, run_passes
from edgeq.runtimes import is_installed, open_session
from edgeq.sources.artifact_file import open_artifact
from edgeq.targets import get_target
from tests.exporting import nets

pytestmark = pytest.mark.kernels

WEIGHTS = {
    "w": nets.normal(1, 8, 4, 3, 3), "v": nets.normal(2, 8, 4, 3, 3), "d": nets.normal(3, 4, 1, 3, 3),
    "c": nets.normal(4, 1, 4, 1, 1),
}  # fmt: skip
ORDER = np.array([1, 2, 0, -1])
NETS = {
    "straight": ("y = Conv(g, w)", ["Conv"]),
    "two readers": ("a = Conv(g, w) b = Conv(g, v) y = Add(a, b)", ["Conv", "Conv", "Add"]),
    "behind a function": ("r = Relu(g) y = Conv(r, w)", ["Relu", "Conv"]),
    "a constant for each channel": ("m = Mul(g, c) y = Conv(m, w)", None),
    "another reader": ("s = Conv(g, d) t = Conv(g, w) y = Concat<axis=1>(s, t)", None),
}


def shuffled(body: str) -> ir.Model:
    text = f"g (float[1,4,8,8] x) => (float[a,b,c_,d_] y) {{ g = Gather<axis=1>(x, order) {body} }}"
    return nets.graph(text.replace("Conv(g, d)", "Conv<group=4>(g, d)"), WEIGHTS | {"order": ORDER})


@pytest.mark.parametrize("name", list(NETS))
def test_files_for_x86_have_none_before_a_convolution(name, tmp_path):
    body, operators = NETS[name]
    model, x = shuffled(body), nets.normal(9, 1, 4, 8, 8)
    (wanted,) = nets.run(model, x)
    run_passes(model, for_engine(get_target("x86").rules))
    assert "Gather" not in nets.ops(model)
    if operators is not None:
        assert nets.ops(model) == operators
    (found,) = nets.run(model, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    if is_installed("openvino"):
        save_onnx(model, tmp_path / "net.onnx")
        with open_session(open_artifact(tmp_path / "net.onnx"), "openvino", 1, "f32") as session:
            (real,) = session.run({"x": x}).values()
        np.testing.assert_allclose(real, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("order", "body"), [([2, 1, 0, 3], "y = Conv(g, w)"), ([1, 2, 0, 3], "y = Relu(g)")])
def test_what_openvino_gets_right_stays(order, body):
    text = f"g (float[1,4,8,8] x) => (float[a,b,c_,d_] y) {{ g = Gather<axis=1>(x, order) {body} }}"
    model = nets.graph(text, WEIGHTS | {"order": np.array(order)})
    assert not run_passes(model, for_engine(get_target("x86").rules))["fold_channel_gathers"].done
    assert nets.ops(model)[0] == "Gather"
