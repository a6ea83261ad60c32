"""Channels evened out between convolutions: the same function, and more of its signal in INT8."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.errors import InputError
from edgeq.exporting.graphs.graph import copy_graph
from edgeq.exporting.onnx.writer import FloatModel, write_int8
from edgeq.exporting.passes.equalize import equalizable_tensors, equalize_channels
from edgeq.exporting.passes.rescale import ChannelExtremes
from edgeq.inputs import items_of
from edgeq.inputs.presets import load_preset
from edgeq.runtimes.observer import ActivationObserver
from edgeq.targets import get_target
from tests.exporting import nets

IMAGES = [nets.normal(seed, 1, 3, 12, 12).clip(-2, 2) for seed in range(50, 54)]
# As training leaves it: channels whose values differ by orders of magnitude.
SPREAD = np.geomspace(0.05, 1, 8).astype(np.float32)
WEIGHTS = {
    "first": nets.normal(1, 8, 3, 3, 3) * SPREAD[:, None, None, None], "bias": nets.normal(2, 8) * SPREAD,
    "each": nets.normal(3, 8, 1, 3, 3), "point": nets.normal(4, 6, 8, 1, 1), "halves": nets.normal(5, 8, 4, 3, 3),
    "up": nets.normal(6, 8, 6, 2, 2), "slope": np.abs(nets.normal(7, 8, 1, 1)), "out": nets.normal(8, 5, 6, 1, 1),
    "scales": np.array([1, 1, 2, 2], np.float32),
}  # fmt: skip
STEM = "a = Conv<pads=[1,1,1,1]>(x, first, bias)"
# Name -> body, and the convolutions behind which channels are evened out.
NETS = {
    "depthwise": (f"{STEM} b = Relu(a) y = Conv<group=8, pads=[1,1,1,1]>(b, each)", 1),
    "pointwise": (f"{STEM} b = Relu(a) y = Conv(b, point)", 1),
    "nothing between": (f"{STEM} y = Conv(a, point)", 1),
    "groups of a leaky reader": (f"{STEM} b = LeakyRelu<alpha=0.1>(a) y = Conv<group=2>(b, halves)", 1),
    "a slope for each channel": (f"{STEM} b = PRelu(a, slope) y = Conv(b, point)", 1),
    "pooled": (f"{STEM} b = Relu(a) c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b) y = Conv(c, point)", 1),
    "resized": (f"{STEM} b = Relu(a) c = Resize<mode=\"nearest\">(b, , scales) y = Conv(c, point)", 1),
    "several readers": (f"{STEM} b = Relu(a) c = Conv(b, point) d = Conv(b, point) y = Add(c, d)", 1),
    "into and out of a deconvolution": (f"{STEM} b = Relu(a) c = ConvTranspose(b, up) d = Relu(c) y = Conv(d, out)", 2),
    "through a depthwise layer": (f"{STEM} b = Relu(a) c = Conv<group=8>(b, each) d = Relu(c) y = Conv(d, point)", 2),
}  # fmt: skip
LEFT = {
    "an addition": (f"{STEM} b = Relu(a) y = Add(b, a)", "Add and Relu read it"),
    "a curve": (f"{STEM} b = Sigmoid(a) y = Conv(b, point)", "Sigmoid reads it"),
    "a slope that is computed": (f"{STEM} s = Sigmoid(a) b = PRelu(a, s) y = Conv(b, point)", "PRelu and Sigmoid"),
    "one reader of another kind": (
        f"{STEM} b = Relu(a) c = Conv(b, point) d = Exp(b) e = Conv(d, point) y = Add(c, e)",
        "Conv and Exp read it",
    ),
    "an output": (f"{STEM} y = Relu(a)", "y is an output"),
}


def model_of(body: str) -> ir.Model:
    return nets.graph(f"g (float[1,3,12,12] x) => (float[N,C,H,W] y) {{ {body} }}", WEIGHTS)


def measured(model: ir.Model) -> dict[str, ChannelExtremes]:
    observer = ActivationObserver(copy_graph(model), equalizable_tensors(model), threads=1)
    seen = [observer.observe({"x": image}) for image in IMAGES]
    return {
        name: ChannelExtremes(
            np.min([each[name].min(axis=(0, 2, 3)) for each in seen], axis=0),
            np.max([each[name].max(axis=(0, 2, 3)) for each in seen], axis=0),
        )
        for name in seen[0]
    }


@pytest.mark.parametrize("name", NETS)
def test_the_network_computes_the_same(name: str) -> None:
    body, count = NETS[name]
    model = model_of(body)
    wanted = nets.run(model, IMAGES[0])[0]
    report = equalize_channels(model, measured(model))
    assert len(report.done) == count
    found = nets.run(model, IMAGES[0])[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_channels_that_a_depthwise_layer_reads_get_one_range() -> None:
    model = model_of(NETS["depthwise"][0])
    (before,) = measured(model).values()
    assert before.maximum.max() > 10 * before.maximum.min()
    equalize_channels(model, measured(model))
    (behind,) = measured(model).values()
    np.testing.assert_allclose(behind.maximum, before.maximum.max(), rtol=1e-4)


def test_elsewhere_the_difficulty_is_halved() -> None:
    model = model_of(NETS["pointwise"][0])
    (before,) = measured(model).values()
    weights = np.abs(WEIGHTS["point"]).max(axis=(0, 2, 3))
    equalize_channels(model, measured(model))
    (behind,) = measured(model).values()
    wanted = np.sqrt(before.maximum * weights)
    np.testing.assert_allclose(behind.maximum / behind.maximum.max(), wanted / wanted.max(), rtol=1e-4)


@pytest.mark.parametrize("name", LEFT)
def test_what_does_not_qualify_is_named(name: str) -> None:
    body, reason = LEFT[name]
    model = model_of(body)
    report = equalize_channels(model, {})
    assert not report.done and any(reason in why for why in report.left.values())
    assert equalizable_tensors(model) == ()


def test_dead_channels_keep_their_values() -> None:
    dead = {**WEIGHTS, "first": WEIGHTS["first"].copy(), "bias": WEIGHTS["bias"].copy()}
    dead["first"][3], dead["bias"][3] = 0, -1
    model = nets.graph(f"g (float[1,3,12,12] x) => (float[N,C,H,W] y) {{ {NETS['depthwise'][0]} }}", dead)
    wanted = nets.run(model, IMAGES[0])[0]
    equalize_channels(model, measured(model))
    found = nets.run(model, IMAGES[0])[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_statistics_of_another_tensor_are_refused() -> None:
    model = model_of(NETS["pointwise"][0])
    (name,) = equalizable_tensors(model)
    with pytest.raises(InputError, match=r"have shapes \(3,\) and \(3,\), wanted \(8,\)"):
        equalize_channels(model, {name: ChannelExtremes(np.zeros(3), np.ones(3))})
    assert f"there are no statistics of {name}" in equalize_channels(model, {}).left.values()


def test_int8_keeps_more_of_the_signal(tmp_path) -> None:
    """The answer is known: small channels had 5 % of the steps, and weigh as much as the others behind them."""
    equal = {**WEIGHTS, "point": WEIGHTS["point"] / SPREAD[:, None, None]}
    body = f"{STEM} b = Relu(a) c = Conv(b, point) d = Relu(c) y = Conv(d, out)"
    graph = nets.graph(f"g (float[1,3,12,12] x) => (float[N,C,H,W] y) {{ {body} }}", equal)
    model = FloatModel("net", graph, load_preset("imagenet", (12, 12)).preprocessing)
    wanted = [nets.run(graph, image)[0] for image in IMAGES]
    items = list(items_of([image[0] for image in IMAGES], len(IMAGES)))
    snr = {}
    for rescaled in (False, True):
        own = dataclasses.replace(model, graph=copy_graph(graph))
        if rescaled:
            names = equalizable_tensors(own.graph)
            equalize_channels(own.graph, channel_statistics(own, names, items, axis=1, threads=1))
        ranges = calibrate(own, items, method="minmax", threads=1).ranges
        file = write_int8(own, get_target("x86"), tmp_path, ranges)
        found = [nets.run(ir.load(file.path), image)[0] for image in IMAGES]
        noise = sum(((one - other) ** 2).sum() for one, other in zip(found, wanted, strict=True))
        snr[rescaled] = 10 * np.log10(sum((each**2).sum() for each in wanted) / noise)
    assert snr[True] > snr[False] + 3, snr
