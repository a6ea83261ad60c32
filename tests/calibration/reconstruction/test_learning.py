"""Learned rounding: its gradient, that it beats rounding to nearest, and what of it is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibration.reconstruction import learning, reconstruct
from edgeq.calibration.reconstruction.learning import Samples, Settings, SoftWeight, learn, squared_error
from edgeq.calibration.reconstruction.units import Unit, find_units
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.graphs.graph import weight_of
from edgeq.exporting.jobs import PlannedModel
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.planning.plan import QuantPlan, make_plan, with_weights
from edgeq.exporting.planning.saturation import SaturationGuard
from edgeq.exporting.planning.selection import select_layers
from edgeq.exporting.planning.wide_ends import with_wide_ends
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import INT4_WEIGHT, PerAxis
from edgeq.targets import get_target
from edgeq.targets.base import Isa
from tests.exporting import nets
from tests.exporting.test_qdq import ranges_for

QUICK = Settings(iterations=100, positions=128, rate=0.05)
TARGET = get_target("x86-openvino")
W4A8 = dataclasses.replace(TARGET, rules=dataclasses.replace(TARGET.rules.in_w4a8, isa="vnni"))
NET = """g (float[1,3,12,12] x) => (float[1,4,12,12] y) {
    s = Conv<pads=[1,1,1,1]>(x, w0, b0) t = Relu(s)
    a = Conv<pads=[1,1,1,1]>(t, w1, b0) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2, b0) e = Add(c, t) r = Relu(e)
    u = Conv<pads=[1,1,1,1]>(r, w3, b0) v = Relu(u) y = Conv(v, w4) }"""
SHAPES = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 8, 3, 3), "w4": (4, 8, 1, 1)}


def planned(isa: Isa = "vnni", *, narrow: bool = True) -> PlannedModel:
    """A plan with weights of 4 bits in all layers but the first and the last."""
    weights = {name: nets.normal(seed, *shape) / 4 for seed, (name, shape) in enumerate(SHAPES.items())}
    model = nets.graph(NET, {**weights, "b0": nets.normal(9, 8) / 4})
    target = W4A8 if narrow else TARGET
    target = dataclasses.replace(target, rules=dataclasses.replace(target.rules, isa=isa))
    selection = with_wide_ends(model, select_layers(model, target.rules))
    ranges = ranges_for(model, 2 * images(1)[0], selection.tensors)
    plan = make_plan(model, selection, ranges, target.rules)
    spec = Preprocessing(height_px=12, width_px=12)
    return PlannedModel(FloatModel("net", model, spec), target, model, plan, ranges)


def images(num: int) -> list[np.ndarray]:
    """Smooth images, as real ones are: neighbours are alike, and so are channels."""
    found = []
    for seed in range(num):
        coarse = nets.normal(seed + 50, 1, 3, 4, 4) + nets.normal(seed + 90, 1, 1, 4, 4)
        found.append(np.repeat(np.repeat(coarse, 3, 2), 3, 3))
    return found


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@given(seed=st.integers(0, 1000), exponent=st.sampled_from([0, 2, 8, 20]))
@settings(max_examples=20)
def test_the_gradients_of_choice_and_gain_are_those_of_automatic_differentiation(seed: int, exponent: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32)
    soft = SoftWeight(weight, round_nearest(weight * np.float32(0.8), INT4_WEIGHT.along(PerAxis(0)), {}))
    soft.choice += torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(4, 6)).astype(np.float32))
    factors = torch.from_numpy(np.random.default_rng(seed + 2).normal(size=(4, 6)).astype(np.float32))
    pull = 0.3 if exponent else 0.0
    leaf = soft.weight().requires_grad_()
    (leaf.sin() * factors).sum().backward()
    assert leaf.grad is not None
    of_choice, of_gain = soft.gradients(leaf.grad, pull, exponent)
    gain = torch.ones(4, 1, requires_grad=True)
    ((soft.weight() * gain).sin() * factors).sum().backward()
    assert gain.grad is not None
    np.testing.assert_allclose(of_gain.numpy(), gain.grad[:, 0].numpy(), atol=1e-5)
    soft.choice.requires_grad_()
    loss = (soft.weight().sin() * factors).sum() + pull * (1 - (2 * soft.share() - 1) ** max(exponent, 1)).sum()
    loss.backward()
    assert soft.choice.grad is not None
    np.testing.assert_allclose(of_choice.numpy(), soft.choice.grad.numpy(), atol=1e-5)


def test_choices_begin_at_the_float_weight_and_decide_for_nearest() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    nearest = round_nearest(weight, INT4_WEIGHT.along(PerAxis(0)), {})
    soft = SoftWeight(weight, nearest)
    np.testing.assert_allclose(soft.weight().numpy(), weight, atol=1e-5)
    np.testing.assert_array_equal(soft.rounded().integers, nearest.integers)


def correlated(num: int, seed: int) -> Samples:
    """Inputs of a linear layer that move together, and its outputs: rounding errors of the same sign add up."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(num, 1)) + 0.05 * rng.normal(size=(num, 24))).astype(np.float32)
    return Samples(x, x, x @ WEIGHT.T)


WEIGHT = np.random.default_rng(5).normal(size=(6, 24)).astype(np.float32)


def linear_plan() -> tuple[Unit, QuantPlan]:
    model = nets.graph("g (float[1,24] x) => (float[1,6] y) { y = Gemm<transB=1>(x, w) }", {"w": WEIGHT})
    nearest = round_nearest(WEIGHT, INT4_WEIGHT.along(PerAxis(0)), {})
    name = str(model.graph[0].name)
    return find_units(model, [name])[0], QuantPlan((), {}, weights={name: nearest})


def test_a_layer_of_inputs_that_move_together_loses_a_third_of_what_rounding_to_nearest_loses() -> None:
    unit, plan = linear_plan()
    found = learn(unit, plan, correlated(512, 0), correlated(128, 1), dataclasses.replace(QUICK, iterations=200), 0)
    assert found.is_kept and found.learned < 0.33 * found.nearest
    (learned,), (nearest,) = found.weights.values(), plan.weights.values()
    steps = WEIGHT / nearest.scale[:, None]
    assert (np.abs(learned.integers - steps) < 1 + 1e-4).all() and np.abs(learned.integers).max() <= 7
    assert (learned.integers != nearest.integers).any()


def test_a_scale_that_is_too_large_is_learned_to_be_smaller_and_no_gain_leaves_its_bounds() -> None:
    unit, plan = linear_plan()
    nearest = next(iter(plan.weights.values()))
    wide = nearest.rescaled(WEIGHT, nearest.scale * np.float32(1.3))
    plan = dataclasses.replace(plan, weights=dict.fromkeys(plan.weights, wide))
    rng = np.random.default_rng(0)
    train, held_out = (Samples(x, x, x @ WEIGHT.T) for x in rng.normal(size=(2, 256, 24)).astype(np.float32))
    slow, fast = (
        next(iter(learn(unit, plan, train, held_out, replaced, 0).weights.values())).scale / wide.scale
        for replaced in (dataclasses.replace(QUICK, gain_rate=rate) for rate in (0.003, 0.5))
    )
    assert slow.mean() < 0.99
    assert (fast >= 0.5).all() and (fast <= 2).all()


def test_biases_follow_the_scales_of_other_weights() -> None:
    given = planned()
    name = next(name for name, weight in given.plan.weights.items() if weight.scheme.bits == 4)
    before = given.plan.biases[name]
    weight = dataclasses.replace(given.plan.weights[name], scale=given.plan.weights[name].scale * np.float32(0.7))
    after = with_weights(given.plan, given.graph, {name: weight})
    np.testing.assert_allclose(after.biases[name].scale, before.scale * np.float32(0.7), rtol=1e-6)
    np.testing.assert_allclose(after.biases[name].dequantize(), before.dequantize(), atol=float(before.scale.max()))
    assert {each: bias for each, bias in after.biases.items() if each != name} == {
        each: bias for each, bias in given.plan.biases.items() if each != name
    }


@given(seed=st.integers(0, 100))
@settings(max_examples=8)
def test_what_is_kept_never_loses_more_on_inputs_that_were_held_out(seed: int) -> None:
    """Also where it learned on the wrong inputs, and from two of them."""
    unit, plan = linear_plan()
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 24)).astype(np.float32)
    held_out = correlated(64, seed)
    found = learn(unit, plan, Samples(x, x, x @ WEIGHT.T), held_out, QUICK, seed)
    kept = squared_error(unit, plan, held_out, found.weights)
    nearest = squared_error(unit, plan, held_out, plan.weights)
    assert kept <= nearest and found.is_kept == (kept < nearest)


@pytest.mark.parametrize(("dropped", "most"), [(0.0, 0.75), (0.5, 0.9)])
def test_a_model_keeps_more_of_its_output_and_all_integers_lie_on_the_grid(
    own_cache, dropped: float, most: float
) -> None:
    given = planned()
    feeds = [{"x": image} for image in images(40)]
    plan, facts = reconstruct.reconstruct(given, feeds, dataclasses.replace(QUICK, dropped=dropped), 1)
    assert facts["kept"] and facts["output_error_learned"] < most * facts["output_error_nearest"]
    assert [len(unit["layers"]) for unit in facts["units"]] == [1, 2, 1]
    assert (facts["images"], facts["held_out"]) == (40, 10)
    bits = [weight.scheme.bits for weight in plan.weights.values()]
    assert bits == [8, 4, 4, 4]  # the head stays in float
    for name, weight in plan.weights.items():
        nearest = given.plan.weights[name]
        assert weight.integers.min() >= weight.scheme.qmin and weight.integers.max() <= weight.scheme.qmax
        assert np.abs(weight.integers.astype(int) - nearest.integers).max() <= 1
    real = np.mean(outputs_error(given, plan)), np.mean(outputs_error(given, given.plan))
    assert real[0] < (most + 0.05) * real[1]  # on images that it has not seen


def outputs_error(given: PlannedModel, plan: QuantPlan) -> list[float]:
    """Squared error of the written graph's output in ONNX Runtime, by other images."""
    from edgeq.exporting.onnx.qdq import insert_qdq

    graph = nets.copy(given.graph)
    insert_qdq(graph, plan, given.target.rules)
    pairs = [(nets.run(given.graph, image)[0], nets.run(graph, image)[0]) for image in images(60)[50:]]
    return [float(np.square(one - other).mean()) for one, other in pairs]


def test_an_interrupted_run_resumes_with_the_same_integers(own_cache, monkeypatch) -> None:
    feeds = [{"x": image} for image in images(16)]
    quick = dataclasses.replace(QUICK, iterations=20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "whole"))
    expected, facts = reconstruct.reconstruct(planned(), feeds, quick, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "parts"))
    learned, calls = learning.learn, []

    def dying(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return learned(*arguments)

    monkeypatch.setattr(reconstruct, "learn", dying)
    with pytest.raises(KeyboardInterrupt):
        reconstruct.reconstruct(planned(), feeds, quick, 1)
    found, again = reconstruct.reconstruct(planned(), feeds, quick, 1)
    assert calls == [0, 1, 1, 2]  # the first unit was not learned twice
    assert again == facts
    for name, weight in expected.weights.items():
        np.testing.assert_array_equal(found.weights[name].integers, weight.integers)
        np.testing.assert_array_equal(found.weights[name].scale, weight.scale)
    given = planned().plan.weights
    assert any((weight.scale != given[name].scale).any() for name, weight in expected.weights.items())
    # Damage and another seed are other matters.
    (log,) = (own_cache / "parts" / "edgeq" / "reconstruction").iterdir()
    log.write_text(log.read_text().replace('"shape": [8', '"shape": [9'))
    assert reconstruct.reconstruct(planned(), feeds, quick, 1)[1] == facts
    other = reconstruct.reconstruct(planned(), feeds, dataclasses.replace(quick, seed=1), 1)[1]
    assert other["units"] != facts["units"]


def test_no_sum_in_16_bits_saturates_by_what_was_learned(own_cache) -> None:
    given = planned("avx2", narrow=False)
    feeds = [{"x": image} for image in images(16)]
    plan, _ = reconstruct.reconstruct(given, feeds, QUICK, 1)
    guard = SaturationGuard(given.ranges.channel_maxima)
    for node in given.graph.graph:
        if (weight := plan.weights.get(str(node.name))) is not None:
            real, source = weight_of(node), node.inputs[0]
            assert real is not None and source is not None
            grid = {**plan.tied, **plan.tensors}[str(source.name)]
            assert guard.fit(node, real, weight, grid) is weight


def test_few_images_are_refused_or_warned_of(own_cache, caplog) -> None:
    with pytest.raises(InputError, match="learns on images, and there are 3; give `calib` with at least 4"):
        reconstruct.reconstruct(planned(), [{"x": image} for image in images(3)], QUICK, 1)
    reconstruct.reconstruct(planned(), [{"x": image} for image in images(4)], dataclasses.replace(QUICK, iterations=1))
    assert "learned on 4 images only" in caplog.text
    assert reconstruct.images_to_learn_on((3, 32, 32)) == 512
    assert reconstruct.images_to_learn_on((3, 512, 512)) == 32
