"""Every statistic against an independent reference, and that order, batches and interruptions leave no trace."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.calibration.statistics import STATISTICS, NonFiniteError, Request, Statistic, statistic_class
from edgeq.calibration.statistics.channel_extremes import ChannelExtremesStatistic
from edgeq.calibration.statistics.channel_means import ChannelMeans
from edgeq.calibration.statistics.histogram import HistogramStatistic
from edgeq.calibration.statistics.second_moments import SecondMoments
from edgeq.calibrators import Histogram
from edgeq.errors import InputError

UNIT_ROUNDOFF = 2.0**-53
CONVOLUTION: dict[str, Any] = {
    "kernel": (2, 3),
    "strides": (2, 1),
    "pads": (1, 0, 0, 2),
    "dilations": (1, 2),
    "groups": 2,
}
MAKERS: dict[str, Callable[[], Any]] = {
    "histogram": HistogramStatistic,
    "channel_extremes": lambda: ChannelExtremesStatistic(axis=1),
    "channel_means": lambda: ChannelMeans(axis=1),
    "second_moments": lambda: SecondMoments(**CONVOLUTION),
}

every_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(arrays.arrays(np.float32, (1, 4, 3, 5), elements=every_float32), min_size=1, max_size=5)


def gathered(make: Callable[[], Any], parts: Sequence[np.ndarray]) -> Any:
    statistic = make()
    for part in parts:
        statistic.update(part)
    return statistic


def same(one: Any, other: Any, parts: Sequence[np.ndarray]) -> bool:
    """Returns whether two statistics agree, as exactly as they promise."""
    if not isinstance(one, SecondMoments):
        return json.dumps(one.to_json()) == json.dumps(other.to_json())
    magnitude = gathered(MAKERS["second_moments"], [np.abs(part) for part in parts]).matrices
    bound = 2 * one.rows * UNIT_ROUNDOFF / (1 - one.rows * UNIT_ROUNDOFF) * magnitude * 1.0001
    return one.rows == other.rows and bool((np.abs(one.matrices - other.matrices) <= bound).all())


@pytest.mark.parametrize("name", sorted(MAKERS))
@settings(max_examples=60, deadline=None)
@given(parts=batches, order=st.randoms(use_true_random=False), cut=st.integers(0, 5))
def test_order_batches_and_interruptions_leave_no_trace(name, parts, order, cut):
    make = MAKERS[name]
    whole = gathered(make, parts)
    shuffled = list(parts)
    order.shuffle(shuffled)
    assert same(whole, gathered(make, shuffled), parts)
    assert same(whole, gathered(make, [np.concatenate(parts)]), parts)
    resumed = type(whole).from_json(json.loads(json.dumps(gathered(make, parts[:cut]).to_json())))
    resumed.merge(gathered(make, parts[cut:]))
    assert same(whole, resumed, parts)


@settings(max_examples=100, deadline=None)
@given(parts=batches)
def test_means_are_exact_sums_rounded_once(parts):
    statistic = gathered(lambda: ChannelMeans(axis=1), parts)
    everything = np.concatenate(parts)
    for channel, mean in enumerate(statistic.means):
        values = [Fraction(float(value)) for value in everything[:, channel].ravel()]
        assert mean == float(sum(values) / len(values))
    assert statistic.values == everything[:, 0].size


def test_means_of_long_channels_are_exact(monkeypatch):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((3, 70_001)) * 10.0 ** rng.integers(-30, 30, (3, 70_001))).astype(np.float32)
    for rows, pending in ((1 << 22, 1 << 31), (1000, 5000)):
        monkeypatch.setattr("edgeq.calibration.statistics.channel_means._MAX_ROWS", rows)
        monkeypatch.setattr("edgeq.calibration.statistics.channel_means._MAX_PENDING", pending)
        last = ChannelMeans(axis=-1)
        for part in np.split(values.T, [1, 4000, 30_000]):
            last.update(part)
        first = gathered(lambda: ChannelMeans(axis=0), [values])
        exact = [math.fsum(channel.tolist()) / 70_001 for channel in values]
        np.testing.assert_allclose(last.means, exact, rtol=1e-15)
        assert last.means.tolist() == first.means.tolist()


def test_extremes_are_those_of_numpy():
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((2, 7, 5)).astype(np.float32) for _ in range(3)]
    low, high = gathered(lambda: ChannelExtremesStatistic(axis=-1), parts).extremes
    everything = np.concatenate(parts).reshape(-1, 5)
    np.testing.assert_array_equal(low, everything.min(axis=0))
    np.testing.assert_array_equal(high, everything.max(axis=0))


def test_histograms_are_those_of_the_calibrators():
    parts = [np.random.default_rng(seed).standard_normal((4, 9)).astype(np.float32) for seed in range(3)]
    assert gathered(HistogramStatistic, parts).histogram == Histogram.of(*parts)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(arrays.arrays(np.float32, (4, 3), elements=every_float32), min_size=1, max_size=6))
def test_second_moments_keep_their_bound(parts):
    statistic = gathered(SecondMoments, parts)
    rows = np.concatenate(parts).astype(np.float64)
    bound = len(rows) * UNIT_ROUNDOFF / (1 - len(rows) * UNIT_ROUNDOFF)
    for i in range(3):
        for j in range(3):
            products = rows[:, i] * rows[:, j]  # exact
            allowed = bound * math.fsum(np.abs(products)) * (1 + 1e-15)
            exact = math.fsum(products)
            assert abs(statistic.matrices[0, i, j] - exact) <= allowed + UNIT_ROUNDOFF * abs(exact)
    assert statistic.rows == len(rows)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": (2, 3)},
        {"pads": (1, 2, 0, 1)},
        {"dilations": (2, 1)},
        {"groups": 2},
        {"groups": 4},
        {"strides": (2, 1), "pads": (1, 1, 1, 1), "dilations": (1, 2), "groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("block", [1 << 22, 40])
def test_second_moments_are_those_of_what_a_convolution_multiplies(options, block, monkeypatch):
    """For a weight W the sum of the products of two outputs over all pixels is W M W^T; ONNX Runtime convolves."""
    import onnxruntime
    from onnx import TensorProto, helper

    monkeypatch.setattr("edgeq.calibration.statistics.second_moments._BLOCK", block)
    groups = options.get("groups", 1)
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((8, 4 // groups, 3, 2)).astype(np.float32)
    images = [rng.standard_normal((count, 4, 9, 8)).astype(np.float32) for count in (1, 2)]
    attributes = {"kernel_shape": (3, 2), "group": groups} | {k: v for k, v in options.items() if k != "groups"}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 4, 9, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    statistic = SecondMoments(kernel=(3, 2), **options)
    expected = np.zeros((8, 8))
    for image in images:
        statistic.update(image)
        (output,) = session.run(None, {"x": image})
        rows = np.moveaxis(output, 1, -1).reshape(-1, 8).astype(np.float64)
        expected += rows.T @ rows
    for group, moments in enumerate(statistic.matrices):
        channels = slice(group * 8 // groups, (group + 1) * 8 // groups)
        flat = weight[channels].reshape(8 // groups, -1).astype(np.float64)
        np.testing.assert_allclose(flat @ moments @ flat.T, expected[channels, channels], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(name, value):
    array = np.ones((1, 4, 6, 7), np.float32)
    array[0, 1, 2, 3:5] = value
    with pytest.raises(NonFiniteError, match="2 NaN or infinite values"):
        MAKERS[name]().update(array)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_an_empty_array_changes_nothing(name):
    part = np.ones((1, 4, 6, 7), np.float32)
    assert same(gathered(MAKERS[name], [part[:0], part, part[:0]]), gathered(MAKERS[name], [part]), [part])
    nothing = MAKERS[name]()
    nothing.merge(type(nothing).from_json(json.loads(json.dumps(MAKERS[name]().to_json()))))
    nothing.merge(gathered(MAKERS[name], [part]))
    assert same(nothing, gathered(MAKERS[name], [part]), [part])


@pytest.mark.parametrize("name", ["channel_extremes", "channel_means", "second_moments"])
def test_statistics_that_do_not_go_together_are_refused(name):
    part = np.ones((1, 4, 6, 7), np.float32)
    statistic = gathered(MAKERS[name], [part])
    with pytest.raises(InputError, match="and had"):
        statistic.update(np.ones((1, 6, 6, 7), np.float32))
    other = {"channel_extremes": ChannelExtremesStatistic, "channel_means": ChannelMeans}.get(name)
    with pytest.raises(InputError, match="cannot join"):
        statistic.merge(SecondMoments() if other is None else gathered(lambda: other(axis=2), [part]))


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize(
    "document",
    [None, [], {}, 3, {"axis": 1, "minimum": [2.0], "maximum": [1.0], "values": 1, "sums": [], "rows": 0, "sum": 3}],
)
def test_a_document_of_another_kind_is_refused(name, document):
    with pytest.raises(InputError, match="not "):
        statistic_class(name).from_json(document)


def test_requests_name_a_statistic_and_its_options():
    request = Request.of("x", "second_moments", kernel=(3, 3), groups=2)
    assert request == Request.of("x", "second_moments", groups=2, kernel=(3, 3))
    assert isinstance(request.start(), SecondMoments)
    with pytest.raises(InputError, match="unknown statistic 'median'; known: channel_extremes, channel_means, histogr"):
        Request("x", "median").start()
    assert sorted(MAKERS) == sorted(STATISTICS)


def test_a_statistic_of_a_third_party_is_found(tmp_path, monkeypatch):
    (tmp_path / "zeros_statistic.py").write_text(ZEROS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(STATISTICS, "zeros", "zeros_statistic:Zeros")
    statistic: Statistic = Request("x", "zeros").start()
    statistic.update(np.array([0.0, 1.0, 0.0]))
    assert statistic.to_json() == {"zeros": 2}


ZEROS = """
class Zeros:
    def __init__(self, zeros=0):
        self.zeros = zeros

    def update(self, array):
        self.zeros += int((array == 0).sum())

    def merge(self, other):
        self.zeros += other.zeros

    def to_json(self):
        return {"zeros": self.zeros}

    @classmethod
    def from_json(cls, document):
        return cls(**document)
"""
