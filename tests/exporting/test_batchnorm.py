from __future__ import annotations

import numpy as np
import pytest

from edgeq.exporting.passes.batchnorm import fold_batchnorm
from tests.exporting import nets


def statistics(channels: int, *, shift: bool = True) -> dict[str, np.ndarray]:
    values = {"gamma": nets.positive(1, channels), "var": nets.positive(2, channels)}
    if shift:
        return values | {"beta": nets.normal(3, channels), "mean": nets.normal(4, channels)}
    return values | {"beta": np.zeros(channels, np.float32), "mean": np.zeros(channels, np.float32)}


BN = "BatchNormalization(t, gamma, beta, mean, var)"

CONV_FIRST = {
    "conv": ("Conv<pads=[1,1,1,1]>(x, w)", {"w": nets.normal(5, 6, 4, 3, 3)}, 6),
    "conv_bias": ("Conv<pads=[1,1,1,1]>(x, w, b)", {"w": nets.normal(5, 6, 4, 3, 3), "b": nets.normal(6, 6)}, 6),
    "conv_groups": ("Conv<group=2>(x, w)", {"w": nets.normal(5, 6, 2, 3, 3)}, 6),
    "deconv": ("ConvTranspose<strides=[2,2]>(x, w)", {"w": nets.normal(5, 4, 6, 4, 4)}, 6),
    "deconv_groups": (
        "ConvTranspose<group=2, strides=[2,2]>(x, w, b)",
        {"w": nets.normal(5, 4, 3, 4, 4), "b": nets.normal(6, 6)},
        6,
    ),
}


@pytest.mark.parametrize("name", CONV_FIRST)
def test_layer_before_batchnorm_is_folded_exactly(name: str) -> None:
    layer, weights, channels = CONV_FIRST[name]
    model = nets.graph(
        f"g (float[2,4,9,7] x) => (float[N,C,H,W] y) {{ t = {layer} y = {BN} }}", weights | statistics(channels)
    )
    x = nets.normal(0, 2, 4, 9, 7)
    expected = nets.run(model, x)[0]
    report = fold_batchnorm(model)
    assert (len(report.done), report.left) == (1, {})
    assert nets.ops(model) == [layer.split("<")[0]]
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-4, atol=1e-5)


LINEAR = {
    "gemm": ("t = Gemm(x, w)", {"w": nets.normal(5, 5, 6)}),
    "gemm_transposed": (
        "t = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
        {"w": nets.normal(5, 6, 5), "b": nets.normal(6, 6)},
    ),
    "matmul": ("t = MatMul(x, w)", {"w": nets.normal(5, 5, 6)}),
    "matmul_bias": ("m = MatMul(x, w) t = Add(b, m)", {"w": nets.normal(5, 5, 6), "b": nets.normal(6, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_linear_before_batchnorm_is_folded_exactly(name: str) -> None:
    layer, weights = LINEAR[name]
    model = nets.graph(f"g (float[3,5] x) => (float[3,6] y) {{ {layer} y = {BN} }}", weights | statistics(6))
    x = nets.normal(0, 3, 5)
    expected = nets.run(model, x)[0]
    assert len(fold_batchnorm(model).done) == 1
    assert "BatchNormalization" not in nets.ops(model)
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-4, atol=1e-5)


TOKENS = {
    "matmul": ("m = MatMul(x, w) t = Reshape(m, rows)", {"w": nets.normal(5, 5, 6)}, True),
    "matmul_bias": (
        "m = MatMul(x, w) a = Add(m, b) u = Unsqueeze(a, axis) t = Reshape(u, rows)",
        {"w": nets.normal(5, 5, 6), "b": nets.normal(6, 6), "axis": np.array([0])},
        True,
    ),
    # One row of the normalised matrix is half a token.
    "halves": ("m = MatMul(x, w) t = Reshape(m, rows)", {"w": nets.normal(5, 5, 12)}, False),
    "turned": (
        "m = MatMul(x, w) s = Transpose<perm=[1,0,2]>(m) t = Reshape(s, rows)",
        {"w": nets.normal(5, 5, 6)},
        False,
    ),
    "two readers": ("m = MatMul(x, w) t = Reshape(m, rows) z = Relu(m)", {"w": nets.normal(5, 5, 6)}, False),
}


@pytest.mark.parametrize("name", TOKENS)
def test_linear_before_batchnorm_of_its_tokens_is_folded_exactly(name: str) -> None:
    """LeViT normalises every linear layer so: tokens become rows, and tokens again."""
    layers, weights, folds = TOKENS[name]
    outputs = "float y, float z" if "z =" in layers else "float y"
    text = f"g (float[2,3,5] x) => ({outputs}) {{ {layers} n = {BN} y = Reshape(n, tokens) }}"
    shapes = {"rows": np.array([-1, 6]), "tokens": np.array([2, -1, 6])}
    model, x = nets.graph(text, weights | shapes | statistics(6)), nets.normal(0, 2, 3, 5)
    expected = nets.run(model, x)
    assert len(fold_batchnorm(model).done) == folds
    assert ("BatchNormalization" in nets.ops(model)) is not folds
    for found, wanted in zip(nets.run(model, x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    if folds:
        assert nets.ops(model)[:2] == ["MatMul", "Add"]


BN_FIRST = {
    "conv_unpadded": ("Conv(t, w)", {"w": nets.normal(5, 6, 4, 3, 3)}, True),
    "conv_groups": ("Conv<group=2>(t, w, b)", {"w": nets.normal(5, 6, 2, 3, 3), "b": nets.normal(6, 6)}, True),
    "conv_padded_no_shift": ("Conv<pads=[1,1,1,1]>(t, w)", {"w": nets.normal(5, 6, 4, 3, 3)}, False),
    "deconv_pointwise": ("ConvTranspose(t, w)", {"w": nets.normal(5, 4, 6, 1, 1)}, True),
    "deconv_no_shift": ("ConvTranspose<strides=[2,2]>(t, w)", {"w": nets.normal(5, 4, 6, 4, 4)}, False),
}


@pytest.mark.parametrize("name", BN_FIRST)
def test_batchnorm_before_layer_is_folded_exactly(name: str) -> None:
    layer, weights, shift = BN_FIRST[name]
    text = f"g (float[2,4,9,7] x) => (float[N,C,H,W] y) {{ t = {BN.replace('(t', '(x')} y = {layer} }}"
    model = nets.graph(text, weights | statistics(4, shift=shift))
    x = nets.normal(0, 2, 4, 9, 7)
    expected = nets.run(model, x)[0]
    assert len(fold_batchnorm(model).done) == 1
    assert nets.ops(model) == [layer.split("(")[0].split("<")[0]]
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-4, atol=1e-4)


def test_batchnorm_before_gemm_is_folded_exactly() -> None:
    text = f"g (float[3,5] x) => (float[3,6] y) {{ t = {BN.replace('(t', '(x')} y = Gemm<transB=1>(t, w, b) }}"
    model = nets.graph(text, statistics(5) | {"w": nets.normal(5, 6, 5), "b": nets.normal(6, 6)})
    x = nets.normal(0, 3, 5)
    expected = nets.run(model, x)[0]
    assert len(fold_batchnorm(model).done) == 1
    np.testing.assert_allclose(nets.run(model, x)[0], expected, rtol=1e-4, atol=1e-5)


UNFOLDABLE = {
    "padding hides the shift": (f"t = {BN.replace('(t', '(x')} y = Conv<pads=[1,1,1,1]>(t, w)", "zero padding"),
    "a ReLU comes between": (f"t = {BN.replace('(t', '(x')} r = Relu(t) y = Conv(r, w)", "Relu"),
    "the output has another use": (f"t = Conv<pads=[1,1,1,1]>(x, w) n = {BN} y = Add(n, t)", "another use"),
}


@pytest.mark.parametrize("name", UNFOLDABLE)
def test_what_cannot_be_folded_is_named_with_the_reason_and_left_alone(name: str) -> None:
    body, reason = UNFOLDABLE[name]
    model = nets.graph(
        f"g (float[2,4,9,7] x) => (float[N,C,H,W] y) {{ {body} }}", {"w": nets.normal(5, 4, 4, 3, 3)} | statistics(4)
    )
    x = nets.normal(0, 2, 4, 9, 7)
    expected = nets.run(model, x)[0]
    report = fold_batchnorm(model)
    assert not report.changed and len(report.left) == 1
    assert reason in next(iter(report.left.values()))
    np.testing.assert_array_equal(nets.run(model, x)[0], expected)


def test_a_weight_that_two_layers_share_stays_right_for_both() -> None:
    text = f"g (float[1,4,5,5] x) => (float[1,4,5,5] y, float[1,4,5,5] z) {{ t = Conv(x, w) y = {BN} z = Conv(x, w) }}"
    model = nets.graph(text, {"w": nets.normal(5, 4, 4, 1, 1)} | statistics(4))
    x = nets.normal(0, 1, 4, 5, 5)
    expected = nets.run(model, x)
    assert len(fold_batchnorm(model).done) == 1
    for got, want in zip(nets.run(model, x), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
