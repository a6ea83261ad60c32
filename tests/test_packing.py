"""Arrays as bytes: bit for bit, small, and not believed if they are damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeq.packing import arrays_from_bytes, arrays_to_bytes

DTYPES = st.sampled_from(["uint8", "int32", "int64", "float32", "float64"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)))

WHOLE = arrays_to_bytes({"a": np.arange(50.0)})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3))
def test_what_goes_in_comes_out_bit_for_bit(named):
    packed = arrays_to_bytes(named)
    found = arrays_from_bytes(packed, 1 << 20)
    assert found.keys() == named.keys()
    for name, array in named.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()
    assert arrays_to_bytes(found) == packed, "equal arrays are equal bytes"


def test_ten_classes_take_little_more_than_their_bytes_and_integers_are_compressed():
    scores = np.random.default_rng(0).normal(size=10).astype(np.float32)
    assert len(arrays_to_bytes({"array": scores})) < scores.nbytes + 24
    assert len(arrays_to_bytes({"classes": np.arange(300)})) < 8 * 300 / 4


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | st.integers(0, len(WHOLE) - 1).map(lambda cut: WHOLE[:cut]))
def test_anything_else_is_refused(content):
    with pytest.raises(ValueError, match="array"):
        arrays_from_bytes(content, 1 << 20)


def test_more_than_is_allowed_is_not_unpacked():
    bomb = arrays_to_bytes({"zeros": np.zeros(1 << 20, np.uint8)})
    assert len(bomb) < 1 << 13
    with pytest.raises(ValueError, match="more than 65536 bytes"):
        arrays_from_bytes(bomb, 1 << 16)
