"""Weights fitted to sums of two products in 16 bits: none saturates, and no scale is larger than it must be."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.quantizers.pair_sums import PairedWeight, fitted, flat_pairs, lost_bits, tap_pairs
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import INT8_WEIGHT, PerAxis, PerTensor


def rows_of(weight: np.ndarray) -> PairedWeight:
    """Returns a matrix `(channels, inputs)` whose neighbours are pairs."""
    channels, inputs = weight.shape
    numbers = np.arange(weight.size).reshape(weight.shape)
    return PairedWeight(numbers, np.tile(np.arange(inputs), (channels, 1)), (flat_pairs(inputs),))


def worst(integers: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Returns the largest and the smallest sum of a pair that any input up to `raw` can give, by trying the corners."""
    found = []
    for row in integers.astype(np.int64):
        pairs = (row * raw).reshape(-1, 2)
        corners = [pairs @ np.array(corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1))]
        found.append((np.max(corners), np.min(corners)))
    return np.array(found)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 6), pairs=st.integers(1, 9), tail=st.floats(0.1, 3),
    single=st.booleans(),
)  # fmt: skip
def test_no_pair_saturates_and_no_scale_grows_more_than_it_must(seed, channels, pairs, tail, single):
    random = np.random.default_rng(seed)
    weight = random.uniform(-1, 1, (channels, 2 * pairs)).astype(np.float32)
    weight = np.sign(weight) * np.abs(weight) ** np.float32(tail)
    raw = random.integers(0, 256, 2 * pairs)
    before = round_nearest(weight, INT8_WEIGHT.along(PerTensor() if single else PerAxis(0)), {})
    after = fitted(before, weight, rows_of(weight), raw)
    sums = worst(after.integers, raw)
    assert sums.max() <= 32767 and sums.min() >= -32768
    beyond = (worst(before.integers, raw) > 32767).any(axis=1) | (worst(before.integers, raw) < -32768).any(axis=1)
    grown = np.broadcast_to(after.scale > before.scale, (channels,))
    if single:
        assert grown.all() == beyond.any()
    else:
        np.testing.assert_array_equal(grown, beyond)
        np.testing.assert_array_equal(after.integers[~grown], before.integers[~grown])
    # One step of a weight is at most 1/64 of what a pair of the largest weights holds.
    if grown.any():
        most = np.maximum(sums[:, 0] / 32767, sums[:, 1] / -32768)
        assert most[grown].max() > 0.95
    assert len(lost_bits(before, after)) == np.count_nonzero(after.scale > before.scale)
    assert all(bits <= 1.02 for bits in lost_bits(before, after))


def test_pairs_within_taps_leave_an_odd_last_channel_alone():
    assert tap_pairs(2, 3).tolist() == [[0, 1], [3, 4]]
    assert flat_pairs(6).tolist() == [[0, 1], [2, 3], [4, 5]]
