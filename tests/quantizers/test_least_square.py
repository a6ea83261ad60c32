"""Scales of least squared error against a search over a far finer list of scales."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.quantizers import LEAST_SQUARE, get_weight_method
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.schemes import INT4_WEIGHT, INT8_WEIGHT, PerAxis

ALONG_ROWS = INT4_WEIGHT.along(PerAxis(0))


def test_no_scale_of_a_fine_search_loses_much_less_and_none_of_the_widest_is_better() -> None:
    weight = np.random.default_rng(0).standard_t(4, (24, 72)).astype(np.float32)
    found = get_weight_method(LEAST_SQUARE)(weight, ALONG_ROWS, {})
    errors = np.square(found.dequantize() - weight).sum(axis=1)
    widest = round_nearest(weight, ALONG_ROWS, {})
    assert (errors <= np.square(widest.dequantize() - weight).sum(axis=1) + 1e-6).all()
    assert errors.sum() < 0.9 * np.square(widest.dequantize() - weight).sum()
    for row, error in zip(weight.astype(np.float64), errors, strict=True):
        scales = np.abs(row).max() / 7 * np.linspace(0.3, 1, 400)[:, None]
        fine = np.square(np.clip(np.rint(row / scales), -8, 7) * scales - row).sum(axis=1)
        assert error <= 1.05 * fine.min()


@pytest.mark.parametrize("scheme", [INT4_WEIGHT, INT8_WEIGHT])
def test_integers_are_the_nearest_on_the_scales_that_were_chosen(scheme) -> None:
    weight = np.random.default_rng(1).normal(size=(5, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    found = get_weight_method(LEAST_SQUARE)(weight, scheme.along(PerAxis(0)), {})
    steps = weight / found.scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(found.integers, np.clip(np.rint(steps), scheme.qmin, scheme.qmax))
    assert found.scale[2] > 0 and not found.integers[2].any()
