"""Entropy: agreement with a slow independent reference and with figures measured on NVIDIA's open code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import Histogram
from edgeq.calibrators.entropy import entropy

SAMPLES = 200_000


def kl_divergence(p, q):
    """KL(P || Q) of two unnormalised distributions, bin by bin; infinite where only Q is empty."""
    p, q = p / p.sum(), q / q.sum() if q.sum() else q
    if np.any((p > 0) & (q == 0)):
        return np.inf
    filled = p > 0
    return float(np.sum(p[filled] * np.log(p[filled] / q[filled])))


def reference_fraction(values, *, levels=128, bins=2048, first=128):
    """The definition taken literally, with loops, over bins from 0 to amax: threshold / amax."""
    magnitudes = np.abs(np.asarray(values, np.float32)).astype(np.float64)
    counts = np.histogram(magnitudes, bins, (0, magnitudes.max()))[0].astype(float)
    counts[0] = counts[1]
    divergences = []
    for kept in range(first, bins + 1):
        p = counts[:kept].copy()
        p[-1] += counts[kept:].sum()
        level_of = np.arange(kept) * levels // kept
        sums = np.bincount(level_of, counts[:kept], levels)
        filled = np.bincount(level_of, counts[:kept] > 0, levels)
        q = np.where(counts[:kept] > 0, (sums / np.maximum(filled, 1))[level_of], 0.0)
        divergences.append(kl_divergence(p, q))
    least = min(divergences)
    best = max(index for index, divergence in enumerate(divergences) if divergence <= least + 1e-12)
    return (first + best + 0.5) / bins


def published_samples():
    """The draws behind the figures of the design notes, in their order, from one generator seeded with 0."""
    rng = np.random.default_rng(0)
    samples = {
        "relu-gauss": np.maximum(rng.standard_normal(SAMPLES), 0),
        "gauss": rng.standard_normal(SAMPLES),
        "laplace": rng.laplace(size=SAMPLES),
        "t3": rng.standard_t(3, SAMPLES),
        "uniform": rng.random(SAMPLES),
        "outlier": np.append(rng.standard_normal(SAMPLES), 60.0),
        "constant": np.full(SAMPLES, 3.0),
    }
    return {name: values.astype(np.float32) for name, values in samples.items()}


PUBLISHED = published_samples()
FIGURES = {
    "relu-gauss": 0.864,
    "gauss": 0.987,
    "laplace": 0.913,
    "t3": 0.397,
    "uniform": 1.0,
    "outlier": 0.068,
    "constant": 1.0,
}


@pytest.mark.parametrize("name", FIGURES)
def test_thresholds_agree_with_the_figures_measured_on_nvidias_code(name):
    histogram = Histogram.of(PUBLISHED[name])
    assert entropy(histogram).threshold / histogram.amax == pytest.approx(FIGURES[name], abs=0.001)


@pytest.mark.parametrize("name", FIGURES)
def test_thresholds_agree_with_the_definition_taken_literally(name):
    histogram = Histogram.of(PUBLISHED[name])
    assert entropy(histogram).threshold / histogram.amax == pytest.approx(
        reference_fraction(PUBLISHED[name]), abs=0.001
    )


@pytest.mark.parametrize("name", ["gauss", "laplace", "t3"])
def test_the_asymmetric_form_of_a_one_sided_tensor_counts_256_levels(name):
    magnitudes = np.abs(PUBLISHED[name])
    found, mirrored = entropy(Histogram.of(magnitudes)), entropy(Histogram.of(-magnitudes))
    assert found.low == 0
    assert found.high / magnitudes.max() == pytest.approx(reference_fraction(magnitudes, levels=256), abs=0.001)
    assert (mirrored.low, mirrored.high) == (-found.high, 0)
    assert found.high != found.threshold


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([0.3, 0.7, 1.0, 2.0]), spike=st.sampled_from([0.0, 0.5, 0.95])
)
def test_thresholds_equal_the_definition_where_bins_coincide(seed, shape, spike):
    # With amax a power of two, 2048 bins over [0, amax] are unions of ours: no re-binning stands between the two.
    rng = np.random.default_rng(seed)
    values = rng.weibull(shape, 20_000) * (rng.random(20_000) >= spike) * rng.choice([-1, 1], 20_000)
    values = np.append(np.clip(values / np.abs(values).max() * 4, -3.999, 3.999), 4.0).astype(np.float32)
    assert entropy(Histogram.of(values)).threshold / 4 == pytest.approx(reference_fraction(values), abs=1e-9)


@pytest.mark.parametrize(("amax", "expected"), [(1.0, 0x3C010A14), (255.0, 0x4000890A)])
def test_unclipped_scales_have_the_bits_of_tensorrts_calibration_caches(amax, expected):
    histogram = Histogram.of(np.linspace(0, amax, 4_000_001, dtype=np.float32))
    scale = np.float32(entropy(histogram).threshold / 127)
    assert int(scale.view(np.uint32)) == expected


def test_a_spike_of_zeros_does_not_pull_the_threshold_down():
    values = np.concatenate([PUBLISHED["gauss"], np.zeros(20 * SAMPLES, np.float32)])
    with_spike, without = entropy(Histogram.of(values)), entropy(Histogram.of(PUBLISHED["gauss"]))
    # Bin 0 takes the count of bin 1 in both, so that nothing is left of the zeros but themselves.
    assert with_spike.threshold == without.threshold


@pytest.mark.parametrize("sign", [-1, 1])
def test_one_outlier_is_clipped_in_both_forms(sign):
    values = np.append(PUBLISHED["gauss"], np.float32(sign * 60))
    found = entropy(Histogram.of(values))
    assert 3 < found.threshold < 6
    assert -6 < found.low < -3
    assert 3 < found.high < 6


def test_mirrored_values_give_the_mirrored_range():
    values = np.where(PUBLISHED["laplace"] > 0, PUBLISHED["laplace"], PUBLISHED["laplace"] / 3)
    found, mirrored = entropy(Histogram.of(values)), entropy(Histogram.of(-values))
    assert (mirrored.low, mirrored.high, mirrored.threshold) == (-found.high, -found.low, found.threshold)


def test_the_short_side_is_kept_whole():
    values = PUBLISHED["gauss"] * 4
    silu = values / (1 + np.exp(-values))
    found = entropy(Histogram.of(silu))
    assert found.low == silu.min()
    assert found.threshold / 2 < found.high <= silu.max()
