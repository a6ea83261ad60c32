"""Weights of 2 to 8 bits: published formulas and tables by their numbers, methods by what a layer's output loses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import InputError
from edgeq.quantizers import get_weight_method
from edgeq.quantizers.channel_scales import scaled, search_channel_scales
from edgeq.quantizers.clipping import clip
from edgeq.quantizers.codebooks import CODEBOOKS, codebook, double_quantized
from edgeq.quantizers.error_feedback import RoundingOrder, drawn_to_mean, feed_on_set_scales, nearest_numbers
from edgeq.quantizers.gptq import gptq, gptq_act_order
from edgeq.quantizers.hqq import hqq
from edgeq.quantizers.recipes import get_recipe
from edgeq.quantizers.round_nearest import grid_parameters, round_nearest
from edgeq.quantizers.weight import QuantizedWeight, spread_over, stored_bits
from edgeq.schemes import NF4, Granularity, PerAxis, PerGroup, PerTensor, Scheme, minmax
from tests.exporting import nets
from tests.quantizers.test_error_feedback import inputs


def grouped(bits: int, size: int = 32, *, real_zero: bool = False) -> Scheme:
    return Scheme(bits=bits, signed=False, symmetric=False, granularity=PerGroup(size, 1), real_zero=real_zero)


def lost(weight: np.ndarray, found: np.ndarray, x: np.ndarray) -> float:
    """Returns the squared error of the output of a layer `(out, in)`."""
    return float(np.square(x @ (found.astype(np.float64) - weight).T).sum())


@pytest.mark.parametrize("bits", range(2, 9))
def test_minmax_k_is_the_published_formula(bits: int) -> None:
    weight = nets.normal(bits, 40, 30) + 0.7  # 0 is not in the middle, and need not be on the grid
    low, high, levels = weight.min(), weight.max(), 2**bits - 1
    wanted = np.rint(levels * (weight - low) / (high - low)) / levels * (high - low) + low
    found = round_nearest(weight, minmax(bits), {})
    np.testing.assert_allclose(found.dequantize(), wanted, atol=2e-6)
    assert found.integers.min() == 0 and found.integers.max() == levels and found.scale.shape == ()
    flat = np.full((2, 3), 0.4, np.float32)
    np.testing.assert_allclose(round_nearest(flat, minmax(bits), {}).dequantize(), flat, rtol=1e-6)


def test_the_normal_floats_are_qloras_and_each_weight_takes_the_nearest() -> None:
    table = codebook("nf4")
    assert len(table) == 16 and table[7] == 0 and (np.diff(table) > 0).all()
    np.testing.assert_allclose(table[[0, 1, 6, 8, 14, 15]], [-1, -0.69619280, -0.09105004, 0.07958030, 0.72295684, 1])
    np.testing.assert_allclose(codebook("fp4") * 6, [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
    weight = nets.normal(0, 8, 128)
    for name in CODEBOOKS:
        scheme = Scheme(bits=4, signed=False, codebook=name, granularity=PerGroup(64, 1))
        found = round_nearest(weight, scheme, {})
        np.testing.assert_allclose(found.scale, np.abs(weight.reshape(8, 2, 64)).max(axis=2))
        values = codebook(name) * np.repeat(found.scale, 64, axis=1)[..., None]
        nearest = np.take_along_axis(values, np.abs(values - weight[..., None]).argmin(axis=2)[..., None], axis=2)[
            ..., 0
        ]
        np.testing.assert_allclose(found.dequantize(), nearest, rtol=1e-6)
    with pytest.raises(InputError, match="codebook 'nf3': known are nf4, fp4"):
        codebook("nf3")


def test_quantized_scales_take_an_eighth_of_a_bit_as_published() -> None:
    assert stored_bits(NF4, 64) == pytest.approx(4.127, abs=5e-4)  # QLoRA, section 3: 0.5 bits become 0.127
    assert stored_bits(Scheme(bits=4, granularity=PerGroup(64)), 64) == 4.5
    assert stored_bits(grouped(4), 32, scale_bits=16) == 4.625 and stored_bits(minmax(2), 1000) == 2.064
    scale = np.abs(nets.normal(0, 40, 30)).astype(np.float32) + 0.05
    back = double_quantized(scale)
    assert (back > 0).all() and back.shape == scale.shape and not np.array_equal(back, scale)
    assert np.abs(back - scale).max() <= np.abs(scale - scale.mean()).max() / 16
    weight = nets.normal(1, 40, 256)
    twice = NF4.along(PerGroup(64, 1))
    whole, halved = (round_nearest(weight, each, {}).dequantize() for each in (replace(twice, double_quantized=False),
                     twice))  # fmt: skip
    assert np.square(halved - weight).sum() < 1.02 * np.square(whole - weight).sum()


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(2, 8), size=st.sampled_from([8, 16, 32, 256]), rows=st.integers(1, 4), seed=st.integers(0, 99),
    real=st.booleans(),
)  # fmt: skip
def test_no_method_loses_more_than_its_objective_allows(bits: int, size: int, rows: int, seed: int, real: bool) -> None:
    weight = nets.normal(seed, rows, 48)
    scheme = grouped(bits, size, real_zero=real)
    nearest = round_nearest(weight, scheme, {})
    halved = hqq(weight, scheme, {})
    assert np.abs(halved.dequantize() - weight).sum() <= np.abs(nearest.dequantize() - weight).sum() * (1 + 1e-6)
    clipped = clip(weight, scheme, {})
    assert np.square(clipped.dequantize() - weight).sum() <= np.square(nearest.dequantize() - weight).sum() * (1 + 1e-6)
    for found in (halved, clipped):
        assert found.integers.min() >= scheme.qmin and found.integers.max() <= scheme.qmax and (found.scale > 0).all()


def test_cuts_count_what_inputs_do_together_and_move_the_zero_point_of_a_lopsided_row() -> None:
    weight, x = nets.normal(0, 48, 64), inputs(1, 400, 64)
    weight[:, 7] = np.abs(weight).max(axis=1) * 4  # on one side, a weight that is far larger than the others
    moments = drawn_to_mean(x.T @ x, len(x))
    moments[7] = moments[:, 7] = 0
    moments[7, 7] = 1e-3 * moments.trace() / 64  # of an input that hardly counts
    scheme = Scheme(bits=3, signed=False, symmetric=False, granularity=PerAxis(0))
    found, nearest = clip(weight, scheme, {"second_moments": moments}), round_nearest(weight, scheme, {})

    def error(quantized: QuantizedWeight) -> np.ndarray:
        difference = quantized.dequantize().astype(np.float64) - weight
        return np.asarray(((difference @ moments) * difference).sum(axis=1))

    assert (error(found) <= error(nearest) * (1 + 1e-9)).all() and error(found).sum() < 0.5 * error(nearest).sum()
    assert (found.zero_point != nearest.zero_point).mean() > 0.5


@pytest.mark.parametrize("granularity", [PerAxis(0), PerGroup(16, 1), PerTensor()])
def test_no_output_loses_more_by_the_choice_of_ranges(granularity: Granularity) -> None:
    weight, x = nets.normal(0, 24, 64) ** 3, inputs(1, 500, 64)
    moments = drawn_to_mean(x.T @ x, len(x))
    scheme = Scheme(bits=2, signed=False, symmetric=False, granularity=granularity)
    damped = moments + 0.01 * moments.diagonal().mean() * np.eye(64)

    def error(quantized: QuantizedWeight) -> np.ndarray:
        difference = quantized.dequantize().astype(np.float64) - weight
        return np.asarray(((difference @ damped) * difference).sum(axis=1))

    found = gptq_act_order(weight, scheme, {"second_moments": moments})
    order = RoundingOrder.of(damped, act_order=True)
    scale, zero = (spread_over(each, weight.shape, scheme).T for each in grid_parameters(weight, scheme))
    numbers, lost_by_each = feed_on_set_scales(weight.T, order, scale, zero, nearest_numbers(scheme))
    uncut = ((numbers - zero) * scale).T - weight
    np.testing.assert_allclose(((uncut @ damped) * uncut).sum(axis=1), lost_by_each, rtol=1e-3)
    chosen = error(found)
    assert (chosen <= lost_by_each * 1.001).all() if granularity != PerTensor() else chosen.sum() < lost_by_each.sum()
    assert chosen.sum() < 0.9 * lost_by_each.sum()


def test_hqq_moves_zero_points_or_scales_and_needs_some() -> None:
    weight = nets.normal(3, 16, 64) ** 3  # a few are far larger than the others
    for real in (False, True):
        scheme = grouped(2, real_zero=real)
        found, nearest = hqq(weight, scheme, {}), round_nearest(weight, scheme, {})
        moved = found.zero_point != nearest.zero_point if real else found.scale != nearest.scale
        assert moved.mean() > 0.5 and (found.zero_point.dtype == (np.float32 if real else np.uint8))
        change = np.abs(found.dequantize() - weight).sum() / np.abs(nearest.dequantize() - weight).sum()
        assert change < 0.97
    with pytest.raises(ValueError, match="HQQ chooses grids with zero points"):
        hqq(weight, Scheme(bits=4), {})


SCHEMES = {
    "4 bits in groups": grouped(4),
    "3 bits, symmetric, in groups": Scheme(bits=3, granularity=PerGroup(16, 1)),
    "2 bits in groups": grouped(2, 16),
    "4 bits in uneven groups": grouped(4, 40),
    "3 bits in rows": Scheme(bits=3, signed=False, symmetric=False, granularity=PerAxis(0)),
    "4 bits for all": Scheme(bits=4, signed=False, symmetric=False, granularity=PerTensor()),
    "minmax-4": minmax(4),
    "NF4": NF4.along(PerGroup(64, 1)),
}


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_gptq_keeps_more_of_the_output_than_rounding_on_every_grid(scheme: Scheme) -> None:
    weight, x = nets.normal(0, 48, 128), inputs(1, 900, 128)
    seen, others = x[:500], x[500:]
    statistics = {"second_moments": drawn_to_mean(seen.T @ seen, len(seen))}
    nearest = round_nearest(weight, scheme, {})
    for method in (gptq, gptq_act_order):
        found = method(weight, scheme, statistics)
        assert found.scale.shape == nearest.scale.shape and found.integers.dtype == nearest.integers.dtype
        assert found.zero_point.dtype == nearest.zero_point.dtype
        assert lost(weight, found.dequantize(), others) < 0.75 * lost(weight, nearest.dequantize(), others)


def test_the_order_of_the_inputs_does_not_move_their_groups() -> None:
    weight, x = nets.normal(0, 4, 64), inputs(1, 300, 64)
    statistics = {"second_moments": drawn_to_mean(x.T @ x, len(x))}
    order = np.argsort(-statistics["second_moments"].diagonal())
    found = gptq_act_order(weight, grouped(4, 16), statistics)
    first = round_nearest(weight, grouped(4, 16), {})
    # The input that is rounded first has no errors to make up for: it is rounded to nearest on its own group's scale.
    step = np.repeat(found.scale, 16, axis=1)[:, order[0]]
    assert (np.abs(found.dequantize()[:, order[0]] - weight[:, order[0]]) <= step / 2 + 1e-6).all()
    assert (found.scale <= first.scale * (1 + 1e-6)).all()
    with pytest.raises(InputError, match=r"gptq rounds by what layers read, .* give `calib` with images"):
        gptq(weight, grouped(4), {})


def test_awqs_scales_change_nothing_but_the_rounding() -> None:
    weight, x = nets.normal(0, 48, 64), inputs(1, 400, 64)
    x[:, 5] *= 30  # a channel that decides the output
    moments = drawn_to_mean(x.T @ x, len(x))
    scheme = grouped(3)
    scales = search_channel_scales([weight, weight[:8]], [scheme, scheme], moments)
    assert scales.shape == (64,) and scales[5] == scales.max() > 1
    larger = scaled(weight, scheme, scales)
    np.testing.assert_allclose((x / scales) @ larger.T, x @ weight.T, rtol=1e-4, atol=1e-2)
    back = scaled(round_nearest(larger, scheme, {}).dequantize(), scheme, 1 / scales)
    assert lost(weight, back, x) < 0.5 * lost(weight, round_nearest(weight, scheme, {}).dequantize(), x)
    alike = search_channel_scales([weight], [scheme], np.eye(64))
    np.testing.assert_array_equal(alike, np.ones(64, np.float32))


def test_recipes_name_their_methods() -> None:
    assert get_recipe("awq+gptq").scales_channels and get_weight_method(get_recipe("awq+gptq").method) is gptq_act_order
    assert not get_recipe("hqq").reads_inputs
    with pytest.raises(InputError, match="`weight_method` adaround: wanted one of rtn, hqq, gptq"):
        get_recipe("adaround")
