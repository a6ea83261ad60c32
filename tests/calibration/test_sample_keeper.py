"""Which inputs a calibration keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeq.calibration.calibrate import calibrate
from edgeq.calibration.output_strength import OutputStrength
from edgeq.calibration.sample_keeper import KeptInput, SampleKeeper
from edgeq.calibrators.kept_samples import KeptSample
from edgeq.errors import InputError
from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.onnx.writer import FloatModel
from tests.exporting import nets

DIGESTS = [f"{number * 7919 % 101:03}" for number in range(20)]
STRENGTH = {digest: float(-int(digest) % 7) for digest in DIGESTS}
"""Not in the order of the digests, and several have the same."""


def keeper_of(num: int) -> SampleKeeper:
    return SampleKeeper(num, lambda activations: float(activations["strength"]))


def offer(keeper: SampleKeeper, digests: Sequence[str]) -> None:
    for digest in digests:
        array = np.full((1, 1, 2, 2), float(digest), np.float32)
        keeper.offer(digest, array, {"strength": np.array(STRENGTH[digest])})


def numbers(samples: Iterable[KeptSample]) -> list[float]:
    return [float(sample.array()[0, 0, 0, 0]) for sample in samples]


RANDOM = [float(digest) for digest in sorted(DIGESTS)[:3]]
STRONG = [float(digest) for digest in sorted(DIGESTS, key=lambda each: (-STRENGTH[each], each))[:3]]


@pytest.mark.parametrize("digests", [DIGESTS, DIGESTS[::-1], sorted(DIGESTS)], ids=["drawn", "reversed", "sorted"])
def test_what_is_kept_does_not_depend_on_what_comes_first(digests: Sequence[str]) -> None:
    keeper = keeper_of(3)
    offer(keeper, digests)
    assert numbers(keeper.samples(DIGESTS)) == RANDOM
    assert numbers(keeper.strongest(DIGESTS)) == STRONG != RANDOM


def test_a_resumed_run_keeps_what_an_undisturbed_one_does() -> None:
    first, second = keeper_of(3), keeper_of(3)
    offer(first, DIGESTS[:12])
    # The last one was on its way when the run ended.
    document = json.loads(json.dumps(first.to_json(DIGESTS[:11])))
    second.merge({digest: KeptInput.from_json(each) for digest, each in document.items()})
    offer(second, DIGESTS[11:])
    assert numbers(second.samples(DIGESTS)) == RANDOM
    assert numbers(second.strongest(DIGESTS)) == STRONG


def test_what_cannot_be_stored_or_is_not_counted_is_not_kept() -> None:
    keeper = SampleKeeper(5)
    keeper.offer("1", np.full((1, 1, 2, 2), np.nan, np.float32), {})
    keeper.offer("2", np.zeros((1, 1, 2, 2), np.float32), {})
    keeper.offer("3", np.ones((1, 1, 2, 2), np.float32), {})
    assert numbers(keeper.samples(["1", "3"])) == [1.0]
    assert keeper.strongest(["1", "2", "3"]) == ()  # nobody knows how strong their outputs are
    none = keeper_of(0)
    offer(none, DIGESTS)
    assert (none.samples(DIGESTS), none.strongest(DIGESTS)) == ((), ())


VALUES = hnp.arrays(np.float32, (1, 3, 4), elements=st.floats(0.125, 8, width=32))


@given(VALUES, VALUES, st.floats(0.125, 8))
def test_the_unit_of_an_output_does_not_change_which_inputs_are_stronger(
    boxes: np.ndarray, scores: np.ndarray, unit: float
) -> None:
    graph = nets.graph("g (float[1,3,4] x) => (float[1,3,4] y, float[1,3,4] z) { y = Relu(x) z = Sigmoid(x) }", {})
    strength = OutputStrength(graph)
    base = np.ones((1, 3, 4), np.float32)
    difference = strength({"y": boxes, "z": scores}) - strength({"y": base, "z": base})
    scaled = strength({"y": boxes * unit, "z": scores}) - strength({"y": base * unit, "z": base})
    assert scaled == pytest.approx(difference, abs=1e-4)
    assert strength({"y": base * 2, "z": base}) > strength({"y": base, "z": base})
    assert math.isnan(strength({"y": base})) and math.isnan(strength({"y": base, "z": base * np.inf}))


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
    assert len(found.strongest) == 4 and found.strongest == again.strongest
    distances = [min(float(np.abs(sample.array()[0] - each).max()) for each in inputs) for sample in found.samples]
    assert max(distances) < 1 / 255
    assert calibrate(small_model, inputs, method=method, threads=1, keep_samples=0).ranges.samples == ()


def test_a_negative_number_is_refused(small_model: FloatModel) -> None:
    with pytest.raises(InputError, match="`keep_samples` -1: wanted 0 or more"):
        calibrate(small_model, [np.zeros((3, 8, 8), np.float32)], keep_samples=-1)
