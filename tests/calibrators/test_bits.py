"""Grids and methods of fewer than 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.calibrators import Grid, Histogram, get_method
from edgeq.calibrators.candidates import candidates
from edgeq.calibrators.least_error import expected_error
from edgeq.errors import InputError

VALUES = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
BITS = st.integers(2, 8)


@given(bits=BITS, low=st.floats(-10, 0), high=st.floats(0.1, 10))
def test_an_asymmetric_grid_has_two_to_the_bits_levels_and_zero(bits, low, high):
    grid = Grid.asymmetric(low, high, bits)
    levels = np.unique(grid.quantize(np.linspace(low - 1, high + 1, 50_000)))
    assert len(levels) == 2**bits
    assert 0.0 in levels
    assert levels[-1] - levels[0] == pytest.approx(high - low)


@given(bits=BITS, threshold=st.floats(0.1, 10))
def test_a_symmetric_grid_ends_at_the_threshold_on_both_sides(bits, threshold):
    levels = np.unique(Grid.symmetric(threshold, bits).quantize(np.linspace(-11, 11, 50_000)))
    assert len(levels) == 2**bits - 1
    np.testing.assert_allclose([levels[0], levels[-1]], [-threshold, threshold])
    np.testing.assert_allclose(levels, -levels[::-1])


@pytest.mark.parametrize("method", ["mse", "lp", "entropy"])
def test_fewer_bits_clip_more(method):
    histogram = Histogram.of(VALUES)
    thresholds = [get_method(method)(histogram, bits=bits).threshold for bits in (8, 6, 4)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[2]
    assert get_method(method)(histogram, bits=8) == get_method(method)(histogram)
    with pytest.raises(InputError, match="1 bits: wanted a whole number from 2 to 8"):
        get_method(method)(histogram, bits=1)


def test_mse_is_the_best_candidate_by_its_own_measure():
    histogram = Histogram.of(VALUES)
    for bits in (4, 6, 8):
        errors = {}
        for name, propose in candidates(bits).items():
            errors[name] = expected_error(histogram, Grid.symmetric(propose(histogram).threshold, bits), 2.0)
        assert errors["mse"] == pytest.approx(min(errors.values()), rel=1e-3)


def test_softmax_has_the_unit_and_clips_besides():
    histogram = Histogram.of(VALUES[VALUES > 0] / 8)
    further = candidates(softmax=True).keys() - candidates().keys()
    proposed = {name: candidates(softmax=True)[name](histogram) for name in further}
    assert (proposed["unit"].low, proposed["unit"].high, proposed["unit"].threshold) == (0.0, 1.0, 1.0)
    assert proposed["clip-0.5"].high == proposed["clip-0.5"].threshold == histogram.maximum / 2
