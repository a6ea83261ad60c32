"""Channels rescaled between LayerNorm and Linear: the same function, and ranges as the papers want them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchvision")

from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import constant
from edgeq.exporting.passes.layernorm import fold_layernorm_affine
from edgeq.exporting.passes.rescale import ChannelExtremes, rescalable_tensors, smooth_channels, unify_channels
from edgeq.runtimes.observer import ActivationObserver
from tests.exporting import encoders, nets

METHODS = {"smooth": smooth_channels, "unify": unify_channels}
IMAGES = [encoders.image(seed) for seed in range(10, 14)]


def measured(model) -> dict[str, ChannelExtremes]:
    observer = ActivationObserver(model, rescalable_tensors(model), threads=1)
    seen = [observer.observe({"image": image}) for image in IMAGES]
    return {
        name: ChannelExtremes(*(
            function([getattr(each[name], kind)(axis=tuple(range(each[name].ndim - 1))) for each in seen], axis=0)
            for function, kind in ((np.min, "min"), (np.max, "max"))
        ))
        for name in seen[0]
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("opset", encoders.OPSETS)
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_an_encoder_computes_the_same(name, opset, method):
    before, model = encoders.exported(name, opset), encoders.exported(name, opset)
    report = METHODS[method](model, measured(model))
    assert len(report.done) == 3 and len(report.left) == (name == "clip")
    encoders.assert_computes_the_same(model, before)


@pytest.mark.parametrize("folded", ["before", "behind", "not"])
@pytest.mark.parametrize("method", METHODS)
def test_it_goes_together_with_folding_in_any_order(method, folded):
    before, model = encoders.exported("torchvision", 18), encoders.exported("torchvision", 18)
    if folded == "before":
        assert fold_layernorm_affine(model).done
    assert len(METHODS[method](model, measured(model)).done) == 3
    if folded == "behind":
        assert fold_layernorm_affine(model).done
    encoders.assert_computes_the_same(model, before)


def test_unified_channels_have_one_range():
    model = encoders.exported("deit", 18)
    spread = [np.ptp(each.maximum - each.minimum) for each in measured(model).values()]
    assert min(spread) > 0.1
    unify_channels(model, measured(model))
    for low, high in measured(model).values():
        np.testing.assert_allclose(low, low.mean(), rtol=1e-3)
        np.testing.assert_allclose(high, high.mean(), rtol=1e-3)
        assert low.mean() <= 0 <= high.mean()


def test_the_reparametrisation_is_that_of_the_paper():
    # RepQ-ViT, equations 9 to 13, by hand: r1 = s / mean(s), r2 = z - mean(z).
    low, high = np.array([-1.0, -4.0, -1.0]), np.array([3.0, 4.0, 1.0])
    gamma, beta, weight = np.array([2.0, 1.0, 0.5]), np.array([0.1, 0.2, 0.3]), np.arange(6.0).reshape(3, 2)
    scale = (high - low) / 255
    zero_point = -low / scale
    r1, r2 = scale / scale.mean(), zero_point - zero_point.mean()
    model = linear_behind_norm(gamma, beta, weight, np.array([1.0, -1.0]))
    unify_channels(model, {"n": ChannelExtremes(low, high)})
    found = constants(model)
    np.testing.assert_allclose(found["LayerNormalization"][1], gamma / r1, rtol=1e-6)
    np.testing.assert_allclose(found["LayerNormalization"][2], (beta + scale * r2) / r1, rtol=1e-5)
    np.testing.assert_allclose(found["Gemm"][1], r1[:, None] * weight, rtol=1e-6)
    np.testing.assert_allclose(found["Gemm"][2], np.array([1.0, -1.0]) - (scale * r2) @ weight, rtol=1e-5)


def test_the_smoothing_is_that_of_the_paper():
    # SmoothQuant, equation 4.
    low, high, weight = np.array([-8.0, -1.0, 0.0]), np.array([2.0, 3.0, 1.0]), np.array([[1, -2], [0.5, 0], [4, 1.0]])
    wanted = np.array([8.0, 3.0, 1.0]) ** 0.7 / np.array([2.0, 0.5, 4.0]) ** 0.3
    model = linear_behind_norm(np.ones(3), np.ones(3), weight, np.zeros(2))
    smooth_channels(model, {"n": ChannelExtremes(low, high)}, alpha=0.7)
    found = constants(model)
    np.testing.assert_allclose(found["LayerNormalization"][1], 1 / wanted, rtol=1e-6)
    np.testing.assert_allclose(found["LayerNormalization"][2], 1 / wanted, rtol=1e-6)
    np.testing.assert_allclose(found["Gemm"][1], weight * wanted[:, None], rtol=1e-6)


def test_smoothing_looks_at_all_readers():
    text = "g (float[5,3] x) => (float[5,2] y, float[5,2] z) "
    text += "{ n = LayerNormalization(x, g, b) y = MatMul(n, v) z = MatMul(n, w) }"
    small, large = np.full((3, 2), 0.25, np.float32), np.full((3, 2), 4, np.float32)
    model = nets.graph(text, {"g": nets.positive(1, 3), "b": nets.normal(2, 3), "v": small, "w": large})
    smooth_channels(model, {"n": ChannelExtremes(np.full(3, -1.0), np.ones(3))}, alpha=0.5)
    np.testing.assert_allclose(constants(model)["LayerNormalization"][1], nets.positive(1, 3) * 2, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_dead_channels_keep_their_scale(method):
    weight = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    gamma, beta = np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0])
    model = linear_behind_norm(gamma, beta, weight, np.zeros(2))
    before = nets.copy(model)
    low, high = np.array([0.0, -1.0, -2.0]), np.array([0.0, 1.0, 4.0])
    METHODS[method](model, {"n": ChannelExtremes(low, high)})
    x = nets.normal(0, 5, 3)
    np.testing.assert_allclose(nets.run(model, x)[0], nets.run(before, x)[0], atol=1e-5)


def constants(model) -> dict[str, list[np.ndarray]]:
    """Returns operator type -> its inputs, an empty array for what is no constant."""
    arrays = {node.op_type: [constant(value) for value in node.inputs] for node in model.graph}
    return {name: [np.empty(0) if each is None else each for each in found] for name, found in arrays.items()}


def linear_behind_norm(gamma, beta, weight, bias):
    arrays = {"g": gamma, "h": beta, "w": weight, "b": bias}
    text = f"g (float[5,{gamma.size}] x) => (float[5,{bias.size}] y) "
    text += "{ n = LayerNormalization(x, g, h) y = Gemm(n, w, b) }"
    return nets.graph(text, {name: array.astype(np.float32) for name, array in arrays.items()})


def test_statistics_that_are_missing_are_told():
    model = encoders.exported("deit", 18)
    report = unify_channels(model, {})
    assert report.done == () and all("no statistics of layer_norm" in reason for reason in report.left.values())


@pytest.mark.parametrize(
    ("low", "high", "what"),
    [
        (np.zeros(2), np.ones(2), "wanted \\(3,\\)"),
        (np.array([0, np.nan, 0]), np.ones(3), "finite"),
        (np.ones(3), np.zeros(3), "at most its maximum"),
    ],
)
def test_wrong_statistics_are_refused(low, high, what):
    model = linear_behind_norm(np.ones(3), np.ones(3), np.ones((3, 2)), np.ones(2))
    with pytest.raises(InputError, match=what):
        unify_channels(model, {"n": ChannelExtremes(low, high)})


def test_a_wrong_alpha_is_refused():
    with pytest.raises(InputError, match="from 0 to 1"):
        smooth_channels(encoders.exported("deit", 18), {}, alpha=1.5)
