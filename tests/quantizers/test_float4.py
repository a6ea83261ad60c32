"""FP4 weights against a table of its sixteen numbers, written out by hand, and FP8 scales against ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.quantizers.float4 import least_tensor_scale, round_float4
from edgeq.schemes import FLOAT4_BLOCKS, PerGroup

# E2M1: sign, two bits of exponent with bias 1, one of mantissa (OCP Microscaling Formats 1.0, section 5.3.3).
NUMBERS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
ALONG_ROWS = FLOAT4_BLOCKS.along(PerGroup(16, 1))


def nearest(steps: np.ndarray) -> np.ndarray:
    """The nearest of the sixteen numbers; of two as near the one whose mantissa is even."""
    positive = NUMBERS[:8]
    distance = np.abs(np.abs(steps)[..., None] - positive)
    tied = distance == distance.min(axis=-1, keepdims=True)
    even = np.arange(8) % 2 == 0
    numbers: np.ndarray = np.copysign(positive[np.argmax(tied * (1 + even), axis=-1)], steps)
    return numbers


def test_the_codes_are_those_of_the_table():
    codes = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)
    np.testing.assert_array_equal(codes.astype(np.float64), NUMBERS)


@given(weight=arrays.arrays(np.float32, (3, 48), elements=st.floats(-64, 64, width=32)), shift=st.integers(-20, 3))
def test_every_weight_is_the_nearest_number_on_its_blocks_scale(weight, shift):
    weight = np.ldexp(weight, shift)
    tensor_scale = least_tensor_scale(weight)
    found = round_float4(weight, ALONG_ROWS, tensor_scale)
    assert found.scale.shape == (3, 3) and found.tensor_scale == tensor_scale and (found.scale > 0).all()
    blocks = found.scale.astype(np.float64) / tensor_scale
    np.testing.assert_allclose(blocks, blocks.astype(ml_dtypes.float8_e4m3fn).astype(np.float64), rtol=1e-6)
    assert blocks.max() <= 448 * (1 + 1e-6)
    steps = weight / np.repeat(found.scale, 16, axis=1)
    np.testing.assert_array_equal(found.integers.astype(np.float64), nearest(np.clip(steps, -6, 6)))
    errors = np.square(found.dequantize() - weight).reshape(3, 3, 16).sum(axis=2)
    largest = np.abs(weight).reshape(3, 3, 16).max(axis=2)
    for peak in (4, 6):  # no other scale of the two loses less
        wanted = np.minimum(largest / peak / tensor_scale, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        other = np.repeat(np.maximum(wanted, 2.0**-9) * tensor_scale, 16, axis=1)
        missed = np.square(nearest(np.clip(weight / other, -6, 6)) * other - weight).reshape(3, 3, 16).sum(axis=2)
        assert (errors <= missed * (1 + 1e-4) + 1e-30).all()


def test_normal_weights_keep_a_decibel_more_than_with_the_largest_always_at_six():
    weight = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
    found = round_float4(weight, ALONG_ROWS, least_tensor_scale(weight)).dequantize()
    scale = np.repeat(np.abs(weight).reshape(64, 32, 16).max(axis=2) / 6, 16, axis=1)
    at_six = nearest(weight / scale) * scale
    kept, plain = (10 * np.log10(np.square(weight).sum() / np.square(each - weight).sum()) for each in (found, at_six))
    assert kept == pytest.approx(21.2, abs=0.15) and plain == pytest.approx(20.4, abs=0.2)


def test_zeros_and_blocks_too_small_for_a_scale_are_zero():
    weight = np.zeros((2, 32), np.float32)
    weight[0, 0], weight[1, 20] = 448.0, 1e-6
    found = round_float4(weight, ALONG_ROWS, least_tensor_scale(weight))
    np.testing.assert_allclose(found.dequantize(), np.where(weight > 1, weight, 0), rtol=1e-6)
    assert least_tensor_scale(np.zeros((2, 32), np.float32)) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_lie_along_the_axis(axis):
    weight = np.ones((32, 32), np.float32)
    (weight if axis else weight.T)[:, 16:] = 4.0
    found = round_float4(weight, FLOAT4_BLOCKS.along(PerGroup(16, axis)), least_tensor_scale(weight))
    np.testing.assert_allclose(found.dequantize(), weight, rtol=1 / 16)
    assert len(np.unique(found.scale)) == 2 and np.isin(found.integers.astype(np.float32), (4, 6)).all()
