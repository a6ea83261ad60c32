"""Errors fed forward: against GPTQ's published recursion input by input, and against what a layer's output loses."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.quantizers.error_feedback import BlockGrid, drawn_to_mean, feed_errors_forward, feed_integers_forward
from edgeq.quantizers.float4 import feed_float4_forward, least_tensor_scale, round_float4
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import FLOAT4_BLOCKS, INT4_BLOCKS, PerGroup
from tests.exporting import nets

INT4 = INT4_BLOCKS.along(PerGroup(8, 0))


def inputs(seed, rows, width):
    """Rows whose values go together, with a few inputs far larger than the others, as layers of real networks read."""
    mixing = nets.normal(seed, width, width) * np.exp(nets.normal(seed + 1, width))
    return (nets.normal(seed + 2, rows, width) @ mixing).astype(np.float64)


def lost(weight, quantized, x):
    """Returns the squared error of the layer's output."""
    return float(np.square(x @ (quantized.dequantize().astype(np.float64) - weight)).sum())


def gptq(weight, moments, scale):
    """GPTQ as published (Frantar et al., 2023, equations 2 and 3): the inverse is updated after every input."""
    left, inverse, numbers = weight.astype(np.float64), np.linalg.inv(moments), np.empty(weight.shape)
    for row in range(len(left)):
        numbers[row] = np.clip(np.rint(left[row] / scale), -8, 7)
        error = (left[row] - numbers[row] * scale) / inverse[row, row]
        left -= np.outer(inverse[:, row], error)
        inverse -= np.outer(inverse[:, row], inverse[row]) / inverse[row, row]
    return numbers


def test_on_given_scales_it_is_gptq():
    weight, x = nets.normal(0, 24, 6), inputs(1, 200, 24)
    moments = drawn_to_mean(x.T @ x, len(x))
    grid = BlockGrid(
        lambda block: (np.full((1, block.shape[1]), 0.5, np.float32), np.zeros((1, block.shape[1]), np.float32)),
        lambda steps: np.clip(np.rint(steps), -8, 7),
    )
    found = feed_errors_forward(weight, moments, INT4, grid)
    wanted = gptq(weight, moments, 0.5)
    assert (found.numbers == wanted).mean() > 0.97  # float32 may round a half the other way
    assert (found.scales == 0.5).all() and found.scales.shape == (3, 6)
    assert (wanted != np.rint(weight / 0.5)).mean() > 0.1  # and that is not rounding to nearest


def test_alike_inputs_are_rounded_to_nearest_on_the_scale_that_loses_least():
    weight = nets.normal(0, 64, 5)
    found = feed_integers_forward(weight, INT4, np.eye(64), lambda scale: scale)
    for block in range(8):
        part = weight[8 * block : 8 * block + 8].astype(np.float64)
        tried = np.abs(part).max(axis=0) / 7 * np.linspace(1, 0.6, 9)[:, None]
        losses = np.square(np.clip(np.rint(part / tried[:, None]), -8, 7) * tried[:, None] - part).sum(axis=1)
        np.testing.assert_allclose(found.scale[block], tried[losses.argmin(axis=0), range(5)], rtol=1e-6)
    step = np.repeat(found.scale, 8, axis=0)
    np.testing.assert_array_equal(found.integers, np.clip(np.rint(weight / step), -8, 7))
    assert (found.scale < np.abs(weight).reshape(8, 8, 5).max(axis=1) / 7 * 0.99).any()  # some are cut off


@pytest.mark.parametrize("seed", range(4))
def test_outputs_on_other_rows_lose_far_less_than_by_rounding_to_nearest(seed):
    weight, x = nets.normal(seed, 64, 48), inputs(seed, 600, 64)
    seen, others = x[:200], x[200:]
    moments = drawn_to_mean(seen.T @ seen, len(seen))
    scheme, narrow = INT4_BLOCKS.along(PerGroup(32, 0)), FLOAT4_BLOCKS.along(PerGroup(16, 0))
    scale = least_tensor_scale(weight)
    for fed, rounded in (
        (feed_integers_forward(weight, scheme, moments, lambda each: each), round_nearest(weight, scheme, {})),
        (feed_float4_forward(weight, narrow, scale, moments), round_float4(weight, narrow, scale)),
    ):
        assert fed.integers.dtype == rounded.integers.dtype and fed.scale.shape == rounded.scale.shape
        assert lost(weight, fed, others) < 0.5 * lost(weight, rounded, others)


def test_blocks_lie_along_the_axis_of_the_inputs():
    weight, x = nets.normal(3, 32, 16), inputs(4, 100, 32)
    moments = drawn_to_mean(x.T @ x, len(x))
    along = [
        feed_integers_forward(each, INT4_BLOCKS.along(PerGroup(8, axis)), moments, lambda scale: scale)
        for axis, each in enumerate((weight, weight.T))
    ]
    np.testing.assert_array_equal(along[0].integers, along[1].integers.T)
    np.testing.assert_array_equal(along[0].scale, along[1].scale.T)
    assert along[1].scale.shape == (16, 4)


@pytest.mark.parametrize("rows", [1, 8, 10_000])
def test_few_rows_say_little_and_many_say_all(rows):
    x = inputs(0, rows, 32)
    x[:, 7] = 0  # an input that is always zero
    moments = drawn_to_mean(x.T @ x, rows)
    assert np.linalg.eigvalsh(moments).min() > 0
    off = np.linalg.norm(moments - x.T @ x / rows) / np.linalg.norm(x.T @ x / rows)
    assert off < 1e-3 if rows == 10_000 else off > 0.1
    np.testing.assert_array_equal(drawn_to_mean(np.zeros((3, 3)), rows), np.eye(3))


def test_a_block_of_zeros_before_all_others_stays_zero():
    weight = nets.normal(5, 32, 4)
    weight[:8, 2] = 0
    x = inputs(6, 50, 32)
    found = feed_integers_forward(weight, INT4, drawn_to_mean(x.T @ x, 50), lambda scale: scale)
    assert (found.integers[:8, 2] == 0).all() and (found.scale > 0).all()
