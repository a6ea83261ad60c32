"""Which inputs a calibration keeps."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.sample_keeper import SampleKeeper
from edgeq.calibrators.kept_samples import KeptSample
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.writer import FloatModel
from tests.exporting import nets

DIGESTS = [f"{number * 7919 % 101:03}" for number in range(20)]


def kept(keeper: SampleKeeper, counted: list[str]) -> list[float]:
    return [float(sample.array()[0, 0, 0, 0]) for sample in keeper.samples(counted)]


def test_the_least_digests_are_kept_in_their_order_whatever_comes_first() -> None:
    for digests in (DIGESTS, DIGESTS[::-1], sorted(DIGESTS)):
        keeper = SampleKeeper(3)
        for digest in digests:
            keeper.offer(digest, np.full((1, 1, 2, 2), float(digest), np.float32))
        assert kept(keeper, DIGESTS) == [float(digest) for digest in sorted(DIGESTS)[:3]]


def test_a_resumed_run_keeps_what_an_undisturbed_one_does() -> None:
    first, second = SampleKeeper(3), SampleKeeper(3)
    for digest in DIGESTS[:12]:
        first.offer(digest, np.full((1, 1, 2, 2), float(digest), np.float32))
    # The last one was on its way when the run ended.
    counted = DIGESTS[:11]
    second.merge({digest: KeptSample.from_json(each) for digest, each in first.to_json(counted).items()})
    for digest in DIGESTS[11:]:
        second.offer(digest, np.full((1, 1, 2, 2), float(digest), np.float32))
    assert kept(second, DIGESTS) == [float(digest) for digest in sorted(DIGESTS)[:3]]


def test_what_cannot_be_stored_or_is_not_counted_is_not_kept() -> None:
    keeper = SampleKeeper(5)
    keeper.offer("1", np.full((1, 1, 2, 2), np.nan, np.float32))
    keeper.offer("2", np.zeros((1, 1, 2, 2), np.float32))
    keeper.offer("3", np.ones((1, 1, 2, 2), np.float32))
    assert kept(keeper, ["1", "3"]) == [1.0]
    none = SampleKeeper(0)
    none.offer("2", np.zeros((1, 1, 2, 2), np.float32))
    assert none.samples(["2"]) == ()


@pytest.fixture(scope="module")
def small_model() -> FloatModel:
    weights = {"w": nets.normal(1, 4, 3, 3, 3), "v": nets.normal(2, 4, 4, 1, 1)}
    text = "g (float[1,3,8,8] x) => (float y) { a = Conv(x, w) b = Relu(a) y = Conv(b, v) }"
    return FloatModel("net", nets.graph(text, weights), Preprocessing(8, 8, resize="stretch"))


@pytest.mark.parametrize("method", ["minmax", "best"])
def test_calibrate_keeps_as_many_as_asked_for(small_model: FloatModel, method: str) -> None:
    inputs = list(nets.positive(5, 6, 3, 8, 8) / 4)
    found = calibrate(small_model, inputs, method=method, threads=1, keep_samples=4).ranges
    again = calibrate(small_model, inputs[::-1], method=method, threads=1, keep_samples=4).ranges
    assert len(found.samples) == 4 and found.samples == again.samples
    distances = [min(float(np.abs(sample.array()[0] - each).max()) for each in inputs) for sample in found.samples]
    assert max(distances) < 1 / 255
    assert calibrate(small_model, inputs, method=method, threads=1, keep_samples=0).ranges.samples == ()


def test_a_negative_number_is_refused(small_model: FloatModel) -> None:
    with pytest.raises(InputError, match="`keep_samples` -1: wanted 0 or more"):
        calibrate(small_model, [np.zeros((3, 8, 8), np.float32)], keep_samples=-1)
