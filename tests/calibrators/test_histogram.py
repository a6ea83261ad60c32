"""Histograms: exact counts, the same for every order, batch split and merge tree."""

from __future__ import annotations

import copy
import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import Histogram, HistogramBuilder
from edgeq.calibrators.histogram import BINS_PER_SIDE
from edgeq.calibrators.packing import unpack_counts
from edgeq.errors import InputError
from tests.calibrators.strategies import float32_arrays

F32 = np.finfo(np.float32)


def content(histogram: Histogram) -> bytes:
    return json.dumps(histogram.to_json()).encode() + histogram.counts.tobytes()


def merged_at_random(parts: list[Histogram], random) -> Histogram:
    parts = list(parts)
    while len(parts) > 1:
        left = parts.pop(random.randrange(len(parts)))
        right = parts.pop(random.randrange(len(parts)))
        parts.append(left.merge(right))
    return parts[0]


@settings(deadline=None, max_examples=300)
@given(values=float32_arrays(), random=st.randoms(use_true_random=False))
def test_order_split_and_merge_tree_never_change_a_bit(values, random):
    expected = content(Histogram.of(values))

    shuffled = values[random.sample(range(len(values)), len(values))]
    cuts = sorted(random.choices(range(len(values) + 1), k=random.randrange(6)))
    batches = np.split(shuffled, cuts)

    assert content(Histogram.of(*batches)) == expected
    assert content(merged_at_random([Histogram.of(batch) for batch in batches], random)) == expected


@settings(deadline=None)
@given(float32_arrays())
def test_counts_are_those_of_exact_division(values):
    histogram = Histogram.of(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert histogram.non_finite == len(values) - len(finite)
    assert histogram.total == len(finite)
    if len(finite):
        assert (histogram.minimum, histogram.maximum) == (finite.min(), finite.max())
        index, count = np.unique(np.trunc(finite / histogram.width), return_counts=True)
        filled = histogram.counts > 0
        np.testing.assert_array_equal(histogram.indices[filled], index)
        np.testing.assert_array_equal(histogram.counts[filled], count)
        # Both ends hold a value, and the largest magnitude uses the upper half of the bins.
        assert histogram.counts[0] > 0 < histogram.counts[-1]
        assert max(abs(index)) < BINS_PER_SIDE
        assert histogram.amax < 2.0**-112 or max(abs(index)) >= BINS_PER_SIDE // 2


@settings(deadline=None)
@given(float32_arrays())
def test_negated_values_give_the_mirror_image(values):
    histogram, mirrored = Histogram.of(values), Histogram.of(-values)
    np.testing.assert_array_equal(mirrored.counts, histogram.counts[::-1])
    np.testing.assert_array_equal(mirrored.magnitude_counts(), histogram.magnitude_counts())


@settings(deadline=None)
@given(float32_arrays())
def test_magnitudes_are_the_histogram_of_absolute_values(values):
    of_magnitudes = Histogram.of(np.abs(values))
    expected = np.zeros(of_magnitudes.indices.max(initial=-1) + 1, np.int64)
    expected[of_magnitudes.indices] = of_magnitudes.counts
    np.testing.assert_array_equal(Histogram.of(values).magnitude_counts(), expected)


@settings(deadline=None)
@given(values=float32_arrays(), doublings=st.integers(0, 300))
def test_growing_keeps_every_count_and_ends_where_wider_bins_would_have_started(values, doublings):
    histogram = Histogram.of(values)
    grown = histogram.coarsened(histogram.exponent + doublings)
    assert grown.total == histogram.total
    if histogram.total:
        finite = values[np.isfinite(values)].astype(np.float64)
        index, count = np.unique([int(math.ldexp(value, -grown.exponent)) for value in finite], return_counts=True)
        np.testing.assert_array_equal(grown.indices[grown.counts > 0], index)
        np.testing.assert_array_equal(grown.counts[grown.counts > 0], count)


def test_bins_cannot_be_made_narrower():
    histogram = Histogram.of([1.0])
    with pytest.raises(ValueError, match="narrower"):
        histogram.coarsened(histogram.exponent - 1)


def test_a_tensor_larger_than_a_chunk_counts_like_its_parts():
    values = np.random.default_rng(0).standard_normal(300_001).astype(np.float32)
    values[200_000:] *= 50
    values[[7, 250_000]] = [np.nan, -np.inf]
    assert Histogram.of(values.reshape(1, -1, 1)) == reduce(add, map(Histogram.of, np.split(values, [1, 70_000])))
    assert Histogram.of(values).total == 299_999


def test_layout_of_an_array_does_not_matter():
    values = np.random.default_rng(0).standard_normal((6, 7, 8)).astype(np.float32)
    assert Histogram.of(values.transpose(2, 0, 1)) == Histogram.of(values[:, ::-1]) == Histogram.of(values)


def test_builders_on_two_threads_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal(400_000).astype(np.float32) * scale for scale in (1, 9, 0.1, 70)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(Histogram.of, tensors))
    assert found == [Histogram.of(tensor) for tensor in tensors]


@pytest.mark.parametrize("value", [2.0**-149, 2.0**-126, 2.0**-30, 0.25, 0.5, 1.0, 3e38])
def test_zeros_seen_first_leave_no_trace(value):
    zeros_first, zeros_last = Histogram.of([0.0, 0.0], [value]), Histogram.of([value, 0.0], [0.0])
    assert content(zeros_first) == content(zeros_last) == content(Histogram.of([0.0]) + Histogram.of([value, 0.0]))


def test_a_snapshot_does_not_change_with_later_updates():
    builder = HistogramBuilder()
    builder.update([1.0, 2.0])
    before = builder.histogram()
    builder.update([1.0, 500.0])
    assert before == Histogram.of([2.0, 1.0])
    with pytest.raises(ValueError, match="read-only"):
        before.counts[0] = 5


def test_negative_zero_is_zero():
    assert content(Histogram.of([-0.0, 0.0])) == content(Histogram.of([0.0], [-0.0]))
    assert math.copysign(1, Histogram.of([-0.0]).minimum) == 1


@pytest.mark.parametrize(
    ("values", "total", "non_finite", "minimum", "maximum"),
    [
        pytest.param([], 0, 0, math.inf, -math.inf, id="empty"),
        pytest.param([[], []], 0, 0, math.inf, -math.inf, id="empty of two dimensions"),
        pytest.param([np.nan, np.inf, -np.inf], 0, 3, math.inf, -math.inf, id="nothing finite"),
        pytest.param([0.0, 0.0], 2, 0, 0, 0, id="zeros"),
        pytest.param([2.5] * 9, 9, 0, 2.5, 2.5, id="constant"),
        pytest.param(
            [F32.smallest_subnormal, np.nan], 1, 1, F32.smallest_subnormal, F32.smallest_subnormal, id="denormal"
        ),
        pytest.param([-F32.max, F32.max], 2, 0, -F32.max, F32.max, id="huge"),
        pytest.param([F32.max, F32.smallest_subnormal], 2, 0, F32.smallest_subnormal, F32.max, id="both"),
    ],
)
def test_extreme_contents(values, total, non_finite, minimum, maximum):
    histogram = Histogram.of(np.asarray(values, np.float32))
    assert (histogram.total, histogram.non_finite) == (total, non_finite)
    assert (histogram.minimum, histogram.maximum) == (minimum, maximum)


def test_other_dtypes_are_taken_as_float32():
    halves = np.array([0.5, -65504, 6e-8], np.float16)
    assert Histogram.of(halves) == Histogram.of(halves.astype(np.float32))
    assert Histogram.of(np.array([0, 255], np.uint8)) == Histogram.of(np.array([0, 255], np.float32))
    doubles = Histogram.of(np.array([0.1, 1e300]))
    assert (doubles.maximum, doubles.non_finite) == (float(np.float32(0.1)), 1)


@settings(deadline=None)
@given(float32_arrays())
def test_json_keeps_every_bit(values):
    histogram = Histogram.of(values)
    text = json.dumps(histogram.to_json(), allow_nan=False)
    assert content(Histogram.from_json(json.loads(text))) == content(histogram)


@settings(deadline=None)
@given(
    counts=st.lists(st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 2**60)), max_size=200),
    ends=st.tuples(st.integers(1, 2**50), st.integers(1, 2**50)),
)
def test_json_keeps_counts_of_any_size(counts, ends):
    counts = np.array([ends[0], *(count // 256 for count in counts), ends[1]])
    start = 2.0 * BINS_PER_SIDE
    exponent = Histogram.of([start + 4 * len(counts)]).exponent
    histogram = Histogram(exponent, counts, start, start + (len(counts) - 1) * 2.0**exponent)
    assert Histogram.from_json(histogram.to_json()) == histogram


def test_a_large_tensor_stays_a_short_text():
    values = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    assert len(Histogram.of(values).to_json()["counts"]) < 40_000


SAMPLE = Histogram.of(np.random.default_rng(0).standard_normal(5000)).to_json()
EMPTY = Histogram.of([np.nan]).to_json()


@pytest.mark.parametrize(
    ("original", "change"),
    [
        pytest.param(SAMPLE, {"counts": SAMPLE["counts"][:-8]}, id="cut short"),
        pytest.param(SAMPLE, {"counts": SAMPLE["counts"] + "AAAA"}, id="bytes to spare"),
        pytest.param(SAMPLE, {"counts": "////" + SAMPLE["counts"][4:]}, id="impossible bit width"),
        pytest.param(SAMPLE, {"counts": ""}, id="no counts"),
        pytest.param(SAMPLE, {"counts": "not base64!"}, id="not base64"),
        pytest.param(SAMPLE, {"counts": None}, id="counts of the wrong kind"),
        pytest.param(SAMPLE, {"values": SAMPLE["values"] + 1}, id="wrong sum"),
        pytest.param(SAMPLE, {"values": -1}, id="negative total"),
        pytest.param(SAMPLE, {"values": 2**62}, id="overflowing total"),
        pytest.param(SAMPLE, {"values": True}, id="total of the wrong kind"),
        pytest.param(SAMPLE, {"values": 0}, id="counts without values"),
        pytest.param(SAMPLE, {"non_finite": 1.5}, id="half a value"),
        pytest.param(SAMPLE, {"exponent": SAMPLE["exponent"] - 1}, id="bins too narrow for the range"),
        pytest.param(SAMPLE, {"exponent": 10**9}, id="absurd exponent"),
        pytest.param(SAMPLE, {"minimum": 5.0, "maximum": 4.0}, id="minimum above maximum"),
        pytest.param(SAMPLE, {"minimum": -4.25}, id="a minimum that no count belongs to"),
        pytest.param(SAMPLE, {"minimum": math.nan}, id="NaN"),
        pytest.param(SAMPLE, {"maximum": math.inf}, id="infinity"),
        pytest.param(SAMPLE, {"maximum": 1e300}, id="beyond float32"),
        pytest.param(SAMPLE, {"maximum": 3.3}, id="between two float32"),
        pytest.param(SAMPLE, {"maximum": "4"}, id="text"),
        pytest.param(EMPTY, {"exponent": 0}, id="empty with bins"),
        pytest.param(EMPTY, {"counts": "AAAA"}, id="empty with counts"),
        pytest.param(EMPTY, {"minimum": 0.0}, id="empty with a minimum"),
    ],
)
def test_damaged_or_hostile_histograms_are_refused(original, change):
    Histogram.from_json(original)
    with pytest.raises(InputError, match="not a histogram of edgeq"):
        Histogram.from_json(original | change)


@pytest.mark.parametrize("key", sorted(SAMPLE))
def test_missing_parts_are_refused(key):
    document = copy.deepcopy(SAMPLE)
    del document[key]
    with pytest.raises(InputError, match=key):
        Histogram.from_json(document)


@pytest.mark.parametrize("document", [None, [], "text", 4])
def test_other_json_is_refused(document):
    with pytest.raises(InputError, match="not a histogram of edgeq"):
        Histogram.from_json(document)


def test_a_negative_count_is_refused():
    histogram = Histogram.of([-1.0, 1.0])
    narrow = Histogram(histogram.exponent, np.array([1, -1, 1]), 1.0, 1.0 + 2 * histogram.width)
    with pytest.raises(InputError, match="negative"):
        Histogram.from_json(narrow.to_json())


@pytest.mark.parametrize("bits", [64, 200, 255])
def test_more_bits_than_a_count_can_have_are_refused(bits):
    with pytest.raises(ValueError, match="damaged"):
        unpack_counts(bytes([bits]) + bytes(bits * 4), 5)
