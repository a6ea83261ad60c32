"""Twin uniform quantization: what the literature says of it must come out of the stored counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.calibrators import Grid, Histogram
from edgeq.calibrators.least_error import mse
from edgeq.calibrators.twin_uniform import twin_uniform, twin_uniform_by_tensor
from edgeq.errors import InputError

RNG = np.random.default_rng(0)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def gelu(values: np.ndarray) -> np.ndarray:
    return np.asarray([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in values], np.float32)


ATTENTION = softmax(3 * RNG.standard_normal((400, 197)))
ACTIVATION = gelu(2 * RNG.standard_normal(40_000))


def quantized_twice(values: np.ndarray, form: str, step: float, shift: int, bits: int) -> np.ndarray:
    """Returns each value on the nearest point of its range, with both ranges written out as lists of points."""
    count = 2 ** (bits - 1)
    fine, coarse = step * np.arange(count), step * 2.0**shift * np.arange(count)
    in_fine = values < step * count if form == "softmax" else values < 0
    if form == "gelu":
        fine = -fine
    found = np.empty_like(values, np.float64)
    for points, chosen in ((fine, in_fine), (coarse, ~in_fine)):
        found[chosen] = points[np.abs(values[chosen, None] - points).argmin(axis=1)]
    return found


@pytest.mark.parametrize(("values", "form"), [(ATTENTION, "softmax"), (ACTIVATION, "gelu")])
@pytest.mark.parametrize("bits", [6, 8])
def test_the_errors_are_those_of_the_values(values, form, bits):
    found = twin_uniform(Histogram.of(values), bits)
    assert (found.form, found.bits) == (form, bits)
    flat = values.ravel().astype(np.float64)
    twin = np.mean((quantized_twice(flat, form, found.fine_step, found.shift, bits) - flat) ** 2)
    assert found.twin_error == pytest.approx(twin, rel=0.03)
    best = mse(Histogram.of(values), bits=bits)
    one = np.mean((Grid.asymmetric(best.low, best.high, bits).quantize(flat) - flat) ** 2)
    assert found.one_grid_error == pytest.approx(one, rel=0.03)
    assert found.gain_db == pytest.approx(10 * math.log10(one / twin), abs=0.2)


def test_softmax_gains_most_and_a_uniform_distribution_loses():
    """A bit for the range flag is worth it where most values are small, and wasted where they are not."""
    flat = np.linspace(0, 1, 100_000, dtype=np.float32)
    found = twin_uniform_by_tensor({"attention": Histogram.of(ATTENTION), "flat": Histogram.of(flat)}, 6)
    assert found["attention"].gain_db > 3
    assert found["flat"].gain_db < 0.5


@settings(deadline=None, max_examples=5)
@given(scale=st.integers(-20, 20), bits=st.integers(3, 8))
def test_the_gain_does_not_depend_on_the_unit(scale, bits):
    small, large = (twin_uniform(Histogram.of(ATTENTION[:50] * np.float32(unit)), bits) for unit in (1, 2.0**scale))
    assert large.gain_db == pytest.approx(small.gain_db, abs=1e-6)
    assert large.shift == small.shift


@pytest.mark.parametrize("values", [[], [0.0, 0.0]])
def test_a_tensor_of_zeros_loses_nothing(values):
    found = twin_uniform(Histogram.of(values))
    assert (found.one_grid_error, found.twin_error, found.gain_db) == (0.0, 0.0, 0.0)


def test_nine_bits_are_refused():
    with pytest.raises(InputError, match="9 bits: wanted a whole number from 2 to 8"):
        twin_uniform(Histogram.of(ATTENTION), 9)
