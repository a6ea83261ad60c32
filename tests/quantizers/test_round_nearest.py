"""Rounding to nearest: no weight is further than half a step from its float, whatever the bits, groups, zero points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.errors import InputError
from edgeq.quantizers import WEIGHT_METHODS, QuantizedWeight, get_weight_method
from edgeq.quantizers.least_square import least_square
from edgeq.quantizers.round_nearest import round_nearest
from edgeq.quantizers.weight import spread
from edgeq.schemes import FLOAT32, INT8_WEIGHT, Granularity, PerAxis, PerGroup, PerTensor, Scheme

WEIGHTS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements=st.floats(-8, 8, width=32).map(lambda number: np.float32(number) if abs(number) > 1e-6 else np.float32(0)),
)


@st.composite
def schemes(draw: st.DrawFn, rank: int) -> Scheme:
    axis = draw(st.integers(-rank, rank - 1))
    kinds: list[Granularity] = [PerTensor(), PerAxis(axis), PerGroup(draw(st.integers(1, 7)), axis)]
    granularity = draw(st.sampled_from(kinds))
    symmetric = draw(st.booleans())
    return Scheme(
        bits=draw(st.integers(2, 8)),
        signed=draw(st.booleans()),
        symmetric=symmetric,
        granularity=granularity,
        narrow_range=symmetric and draw(st.booleans()),
    )


@settings(deadline=None, max_examples=200)
@given(weight=WEIGHTS, data=st.data())
def test_every_weight_is_at_most_half_a_step_away(weight: np.ndarray, data: st.DataObject) -> None:
    scheme = data.draw(schemes(weight.ndim))
    found = round_nearest(weight, scheme, {})
    assert found.integers.shape == weight.shape and str(found.integers.dtype) == scheme.dtype
    assert found.integers.min() >= scheme.qmin and found.integers.max() <= scheme.qmax
    assert found.zero_point.shape == found.scale.shape and found.zero_point.dtype == found.integers.dtype
    steps = np.broadcast_to(spread(found.scale, found), weight.shape).astype(np.float64)
    assert (np.abs(found.dequantize().astype(np.float64) - weight) <= 0.5001 * steps + 1e-9).all()
    assert (found.dequantize()[weight == 0] == 0).all()


@pytest.mark.parametrize(("size", "groups"), [(4, 3), (5, 2), (10, 1), (32, 1), (1, 10)])
def test_groups_have_scales_of_their_own(size: int, groups: int) -> None:
    weight = np.outer(np.arange(1, 4), np.arange(1, 11)).astype(np.float32)
    found = round_nearest(weight, Scheme(bits=4, granularity=PerGroup(size, 1)), {})
    assert found.scale.shape == (3, groups)
    ends = [min((group + 1) * size, 10) for group in range(groups)]
    np.testing.assert_allclose(found.scale, np.outer(np.arange(1, 4), ends) / 7, rtol=1e-6)
    assert found.axis == 1
    across = round_nearest(weight.T, Scheme(bits=4, granularity=PerGroup(size, 0)), {})
    np.testing.assert_array_equal(across.integers.T, found.integers)


def test_all_eight_bits_of_every_channel_are_used() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    found = round_nearest(weight, INT8_WEIGHT.along(PerAxis(0)), {})
    assert np.abs(found.integers).reshape(5, -1).max(axis=1).tolist() == [127] * 5
    assert found.scale == pytest.approx(np.abs(weight).reshape(5, -1).max(axis=1) / 127)
    assert not found.dead.any()


def test_what_is_all_zero_is_dead_and_has_a_valid_scale() -> None:
    weight = np.array([[0, 0], [1, 0], [1e-38, 0]], np.float32)
    found = round_nearest(weight, INT8_WEIGHT.along(PerAxis(0)), {})
    assert found.dead.tolist() == [True, False, True]
    assert (found.scale > 2.0**-100).all()


def test_on_other_scales_only_what_changed_is_rounded_anew() -> None:
    weight = np.array([[0.3, 1.0], [0.3, 1.0]], np.float32)
    given = round_nearest(weight, INT8_WEIGHT.along(PerAxis(0)), {})
    chosen = QuantizedWeight(np.array([[37, 127], [37, 127]], np.int8), given.scale, given.zero_point, given.scheme)
    found = chosen.rescaled(weight, np.array([given.scale[0], 0.1]))
    assert found.integers.tolist() == [[37, 127], [3, 10]], "what a method chose stays"
    assert chosen.rescaled(weight, given.scale) is chosen


def test_rounding_makes_integers_only() -> None:
    with pytest.raises(ValueError, match="rounding makes integers, not float32"):
        round_nearest(np.ones((2, 2), np.float32), FLOAT32, {})


def test_methods_are_found_by_name() -> None:
    found = {name: get_weight_method(name) for name in WEIGHT_METHODS}
    assert found["least-square"] is least_square and found["round"] is round_nearest
    assert found.keys() == {"least-square", "round", "clip", "gptq", "gptq-act-order", "hqq"}
    with pytest.raises(InputError, match=r"unknown weight method 'adaround'; .*known: .*round"):
        get_weight_method("adaround")
