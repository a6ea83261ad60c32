"""Min-max, percentile and MSE, and what every method owes to any tensor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import METHODS, Grid, Histogram, Range, get_method
from edgeq.calibrators.least_error import expected_error, lp, mse
from edgeq.calibrators.minmax import minmax
from edgeq.calibrators.percentile import percentile
from edgeq.errors import InputError
from tests.calibrators.strategies import float32_arrays

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(100_000).astype(np.float32)
TAIL = RNG.exponential(size=500).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=25)
@given(values=float32_arrays())
def test_any_tensor_gets_a_range_within_its_extremes(method, values):
    histogram = Histogram.of(values)
    found = get_method(method)(histogram)
    assert found.low <= 0 <= found.high
    assert found.low < found.high
    assert found.threshold > 0
    if histogram.amax >= 2.0**-100:
        assert found.low >= min(histogram.minimum, 0)
        assert found.high <= max(histogram.maximum, 0)
        # Half of one of 2048 bins: an unclipped entropy threshold lies at the centre of the bin beyond amax.
        assert found.threshold <= histogram.amax * (1 + 0.5 / 2048)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0, 0.0], [np.nan], [1e-44]], ids=["empty", "zeros", "nan", "denormal"])
def test_a_tensor_without_information_gets_one_unit(method, values):
    assert get_method(method)(Histogram.of(values)) == Range(0.0, 1.0, 1.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.full(100, 2.5), id="constant"),
        pytest.param(np.append(np.zeros(10**6), 2.5), id="zeros and one value"),
        pytest.param(np.repeat([0.5, 2.5], [1000, 5]), id="two values"),
        pytest.param(np.full(100, -2.5), id="negative constant"),
        pytest.param(np.repeat([-2.5, 2.5], 7), id="two signs"),
        pytest.param(np.linspace(0, 2.5, 100_000), id="uniform"),
    ],
)
def test_what_has_no_tail_is_not_clipped(method, values):
    values = values.astype(np.float32)
    found = get_method(method)(Histogram.of(values))
    # MSE trades the rarer of two values for the one that it can then meet exactly.
    assert found.low == pytest.approx(min(values.min(), 0), rel=0.03)
    assert found.high == pytest.approx(max(values.max(), 0), rel=0.03)
    assert found.threshold == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_with_a_tail_keep_most_of_the_tail(method):
    values = np.concatenate([np.zeros(10**6, np.float32), TAIL])
    found = get_method(method)(Histogram.of(values))
    assert found.low == 0
    assert np.mean(found.high >= TAIL) > 0.75
    assert np.mean(found.threshold >= TAIL) > 0.75


@pytest.mark.parametrize(("method", "most"), [("entropy", 40), ("lp", 59), ("mse", 40), ("percentile", 40)])
def test_one_outlier_among_many_is_clipped(method, most):
    values = np.append(np.tile(NORMAL, 30), np.float32(60))
    found = get_method(method)(Histogram.of(values))
    assert 3 < found.threshold < most
    assert 3 < found.high < most
    assert -5 < found.low < -3


def test_minmax_is_exact():
    assert minmax(Histogram.of(NORMAL)) == Range(NORMAL.min(), NORMAL.max(), np.abs(NORMAL).max())
    assert minmax(Histogram.of([0.1, 0.2])) == Range(0.0, float(np.float32(0.2)), float(np.float32(0.2)))
    assert minmax(Histogram.of([-3.0, -2.0])) == Range(-3.0, 0.0, 3.0)


@pytest.mark.parametrize("share", [50.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentiles_are_those_of_the_values(share):
    # A number of values for which no share is a whole number of values: no percentile lies between two of them.
    values = NORMAL[:99_991] if share < 100 else NORMAL
    histogram = Histogram.of(values)
    found = percentile(histogram, percentile=share)
    cut = (100 - share) / 2
    ends = np.percentile(values, np.array([cut, 100 - cut]), method="inverted_cdf")
    np.testing.assert_allclose([found.low, found.high], ends, atol=histogram.width)
    end = np.percentile(np.abs(values), share, method="inverted_cdf")
    np.testing.assert_allclose(found.threshold, end, atol=histogram.width)


def test_a_one_sided_tensor_loses_values_at_its_open_end_only():
    positive = np.abs(NORMAL)
    found = percentile(Histogram.of(positive), percentile=99.0)
    assert found.low == 0
    assert found.high == found.threshold
    mirrored = percentile(Histogram.of(-positive), percentile=99.0)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, 0))


@settings(deadline=None)
@given(values=float32_arrays(), shares=st.lists(st.floats(1, 100), min_size=2, max_size=2).map(sorted))
def test_a_larger_percentile_never_clips_more(values, shares):
    # Without values in the bin of zero, where a side would keep its extreme instead.
    values = np.concatenate([values[np.abs(values) >= 1.0], np.array([-64, -1, 1, 64], np.float32)])
    histogram = Histogram.of(values[np.abs(values) < 1000])
    small, large = (percentile(histogram, percentile=share) for share in shares)
    assert small.threshold <= large.threshold
    assert large.low <= small.low
    assert small.high <= large.high


def test_values_too_rare_for_the_percentile_are_clipped_to_zero():
    found = percentile(Histogram.of(np.append(np.abs(NORMAL) + 1, np.float32(-3))), percentile=99.0)
    assert found.low == 0
    assert 3 < found.high < 4.5


@pytest.mark.parametrize("share", [0, -1, 100.5, float("nan")])
def test_an_impossible_percentile_is_refused(share):
    with pytest.raises(InputError, match=r"wanted a number above 0 and at most 100"):
        percentile(Histogram.of(NORMAL), percentile=share)


@settings(deadline=None, max_examples=40)
@given(float32_arrays(), st.sampled_from([2.0, 4.0]))
def test_least_error_is_never_worse_than_minmax(values, power):
    histogram = Histogram.of(values)
    found, extremes = lp(histogram, power=power), minmax(histogram)
    if histogram.total:
        for pair in (
            [Grid.symmetric(found.threshold), Grid.symmetric(extremes.threshold)],
            [Grid.asymmetric(found.low, found.high), Grid.asymmetric(extremes.low, extremes.high)],
        ):
            ours, theirs = (expected_error(histogram, grid, power) for grid in pair)
            assert ours <= theirs


def true_error(values, low, high, levels):
    """Mean squared error of the values themselves, by the formula of QuantizeLinear and DequantizeLinear."""
    scale = (high - low) / (levels - 1)
    zero_point = np.round(-low / scale)
    integers = np.clip(np.round(values.astype(np.float64) / scale) + zero_point, 0, levels - 1)
    return np.mean((values - (integers - zero_point) * scale) ** 2)


DISTRIBUTIONS = {
    "normal": NORMAL,
    "relu": np.maximum(NORMAL, 0),
    "laplace": RNG.laplace(size=50_000).astype(np.float32),
    "heavy": RNG.standard_t(3, 50_000).astype(np.float32),
    "lopsided": np.where(NORMAL > 0, NORMAL * 8, NORMAL),
    "outlier": np.append(NORMAL, np.float32(60)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_finds_the_least_error_that_trying_everything_finds(name):
    values = DISTRIBUTIONS[name]
    values = values[:: len(values) // 20_000] if name != "outlier" else np.append(values[:20_000], np.float32(60))
    found = mse(Histogram.of(values))
    amax = np.abs(values).max()
    least = min(true_error(values, -end, end, 255) for end in np.linspace(amax / 50, amax, 200))
    assert true_error(values, -found.threshold, found.threshold, 255) <= least * 1.01

    lows = np.linspace(values.min() / 20, values.min(), 25) if values.min() < 0 else [0.0]
    highs = np.linspace(values.max() / 20, values.max(), 25)
    least = min(true_error(values, low, high, 256) for low, high in itertools.product(lows, highs))
    assert true_error(values, found.low, found.high, 256) <= least * 1.02


def test_lp_clips_less_the_higher_its_power_and_is_mse_at_two():
    histogram = Histogram.of(DISTRIBUTIONS["heavy"])
    assert lp(histogram, power=2) == mse(histogram)
    thresholds = [lp(histogram, power=power).threshold for power in (1, 2, 4, 8)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] < 0.5 * thresholds[-1]


@pytest.mark.parametrize("power", [0.5, -1, float("inf"), float("nan")])
def test_an_impossible_power_is_refused(power):
    with pytest.raises(InputError, match="a number from 1 up"):
        lp(Histogram.of(NORMAL), power=power)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_expected_error_is_that_of_the_values(name):
    values = DISTRIBUTIONS[name]
    end = float(np.abs(values).max()) * 0.6
    expected = expected_error(Histogram.of(values), Grid.symmetric(end), 2)
    assert expected == pytest.approx(true_error(values, -end, end, 255), rel=0.01)


def test_grids_quantize_like_onnx_runtime():
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        round_trip (float[N] x, float scale, uint8 zero_point) => (float[N] y) {
            q = QuantizeLinear(x, scale, zero_point)
            y = DequantizeLinear(q, scale, zero_point)
        }
    """)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    grid = Grid.asymmetric(-1.0, 2.984375)  # a scale of 1/64, exact in float32
    assert (grid.scale, grid.zero_point) == (1 / 64, 64)
    feeds = {
        "x": NORMAL * 3,
        "scale": np.array(grid.scale, np.float32),
        "zero_point": np.array(grid.zero_point, np.uint8),
    }
    np.testing.assert_array_equal(grid.quantize((NORMAL * 3).astype(np.float64)), session.run(None, feeds)[0])


@settings(deadline=None)
@given(low=st.floats(-1e6, 0), high=st.floats(1e-6, 1e6))
def test_asymmetric_grids_hold_zero_and_reach_both_ends(low, high):
    grid = Grid.asymmetric(low, high)
    assert 0 <= grid.zero_point <= 255
    assert grid.quantize(np.zeros(1)) == 0
    ends = grid.quantize(np.array([low, high]))
    np.testing.assert_allclose(ends, [low, high], atol=grid.scale * 0.501)


def test_unknown_methods_are_named_with_what_exists():
    with pytest.raises(InputError, match=r"unknown method 'magic'; known: entropy, lp, minmax, mse, percentile"):
        get_method("magic")


@pytest.mark.parametrize(
    "ends", [(1.0, 2.0, 2.0), (-2.0, -1.0, 2.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (0.0, float("nan"), 1.0)]
)
def test_a_range_holds_zero_and_is_not_empty(ends):
    with pytest.raises(ValueError, match="is not a range"):
        Range(*ends)
