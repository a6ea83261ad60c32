from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.passes.conv_transpose import rewrite_conv_transpose
from tests.exporting import nets

TEXT = "g (float[1,{i},{h},{w}] x) => (float[N,C,H,W] y) {{ {body} }}"
DECONV = "ConvTranspose<strides=[2,2], pads=[1,1,1,1], kernel_shape=[4,4]>"


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 5), outputs=st.integers(1, 5), height=st.integers(1, 7), width=st.integers(1, 7),
    bias=st.booleans(), relu=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_rewritten_deconvolution_computes_the_same(
    inputs: int, outputs: int, height: int, width: int, bias: bool, relu: bool, seed: int
) -> None:
    deconv = f"{DECONV}(x, w, b)" if bias else f"{DECONV}(x, w)"
    body = f"t = {deconv} y = Relu(t)" if relu else f"y = {deconv}"
    weights = {"w": nets.normal(seed, inputs, outputs, 4, 4)} | ({"b": nets.normal(seed + 1, outputs)} if bias else {})
    model = nets.graph(TEXT.format(i=inputs, h=height, w=width, body=body), weights)
    x = nets.normal(seed + 2, 1, inputs, height, width)
    expected = nets.run(model, x)[0]
    assert len(rewrite_conv_transpose(model).done) == 1
    assert "ConvTranspose" not in nets.ops(model)
    got = nets.run(model, x)[0]
    assert got.shape == expected.shape == (1, outputs, 2 * height, 2 * width)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        "ConvTranspose<strides=[2,2], pads=[0,0,0,0]>",
        "ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>",
        "ConvTranspose<strides=[2,2], pads=[1,1,1,1], group=2>",
        "ConvTranspose<strides=[1,1], pads=[1,1,1,1]>",
    ],
)
def test_other_deconvolutions_are_left_alone(layer: str) -> None:
    model = nets.graph(TEXT.format(i=4, h=5, w=5, body=f"y = {layer}(x, w)"), {"w": nets.normal(1, 4, 2, 4, 4)})
    assert not rewrite_conv_transpose(model).changed
    assert nets.ops(model) == ["ConvTranspose"]


def test_nothing_unused_remains_and_the_output_keeps_its_name() -> None:
    model = nets.graph(
        TEXT.format(i=4, h=5, w=5, body=f"t = {DECONV}(x, w) y = Relu(t)"), {"w": nets.normal(1, 4, 2, 4, 4)}
    )
    rewrite_conv_transpose(model)
    assert "w" not in model.graph.initializers
    assert [value.name for value in model.graph.outputs] == ["y"]
