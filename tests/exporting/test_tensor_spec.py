"""What goes into integer and channel-last inputs and what comes out of such outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeq.exporting.artifact import Preprocessing
from edgeq.exporting.tensor_spec import TensorSpec

SHAPE = (1, 3, 4, 5)


@given(
    dtype=st.sampled_from(["int8", "uint8", "int16"]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    scale=st.floats(1e-4, 10),
    share=arrays(np.float64, SHAPE, elements=st.floats(0, 1)),
    data=st.data(),
)
def test_real_numbers_come_back_within_half_a_step(dtype, layout, scale, share, data):
    limits = np.iinfo(dtype)
    zero_point = data.draw(st.integers(limits.min, limits.max))
    spec = TensorSpec("image", dtype, (None,) * 4, layout, scale, zero_point)
    lowest, highest = (limits.min - zero_point) * scale, (limits.max - zero_point) * scale
    real = (lowest + share * (highest - lowest)).astype(np.float32)
    encoded = spec.encode(real)
    assert (encoded.dtype, encoded.shape) == (np.dtype(dtype), SHAPE if layout == "NCHW" else (1, 4, 5, 3))
    assert encoded.flags.c_contiguous
    decoded = spec.decode(encoded)
    assert decoded.dtype == np.float32
    assert decoded.shape == SHAPE
    rounding = np.spacing(np.float32(max(abs(lowest), abs(highest))))
    assert np.abs(decoded - real).max() <= scale / 2 + 2 * rounding


def test_what_an_integer_cannot_hold_is_cut_off():
    spec = TensorSpec("x", "int8", (1, 3), scale=0.5, zero_point=10)
    np.testing.assert_array_equal(spec.encode(np.array([[-1e9, 0, 1e9]], np.float32)), [[-128, 10, 127]])


def test_floats_only_change_their_places_and_their_type():
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    spec = TensorSpec("image", "float16", (1, 4, 5, 3), "NHWC")
    encoded = spec.encode(image)
    np.testing.assert_array_equal(encoded[0, 1, 2], image[0, :, 1, 2])
    assert encoded.dtype == np.float16
    np.testing.assert_array_equal(spec.decode(encoded), image)
    scores = np.ones((1, 7), np.float32)
    assert dataclasses.replace(spec, dtype="float32").encode(scores).shape == (1, 7)


@pytest.mark.parametrize(
    ("preprocessing", "wanted"),
    [
        (Preprocessing(1, 1), (0, 1)),
        (Preprocessing(1, 1, scale=1, mean=(0, 10, 100), std=(1, 5, 50)), (-2, 255)),
    ],
)
def test_the_range_of_an_input_holds_every_channel(preprocessing, wanted):
    assert preprocessing.value_range == pytest.approx(wanted)


@pytest.mark.parametrize("shape", [(1, 3, 32, 64), (2, 3, 64, 64), (1, 64, 64, 3)])
def test_an_image_of_another_shape_is_no_filling(shape):
    """A session refuses it then, as its elements would be somebody else's pixels."""
    assert TensorSpec("image", "float32", (4, 3, 64, 64)).encode(np.zeros(shape, np.float32)).shape == shape
