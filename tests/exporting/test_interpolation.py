"""Resize along one axis: a matrix, or a choice of points, that gives what ONNX Runtime gives."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgeq.exporting.graphs.interpolation import PLACES, Interpolation, nearest
from tests.exporting import nets

LENGTHS, SCALES = st.integers(2, 12), st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0, 1.3, 2.0, 3.5])
ROUNDING = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


def resized(attributes: str, x: np.ndarray, scale: float) -> np.ndarray:
    """Two equal rows become four: ONNX Runtime copies a map whose shape stays, whatever the scale."""
    text = f"g (float[1,1,2,{x.size}] x) => (float[1,1,4,N] y) {{ y = Resize<{attributes}>(x, , scales) }}"
    model = nets.parse(text, {"scales": np.array([1, 1, 2, scale], np.float32)}, opset=19)
    row: np.ndarray = nets.run(model, np.stack([x, x])[None, None])[0][0, 0, 1]
    return row


@settings(max_examples=60, deadline=None)
@given(
    length=LENGTHS, scale=SCALES, mode=st.sampled_from(["linear", "cubic"]), place=st.sampled_from(sorted(PLACES)),
    antialias=st.booleans(), outside=st.booleans(), a=st.sampled_from([-0.75, -0.5]),
)  # fmt: skip
def test_a_matrix_interpolates(length, scale, mode, place, antialias, outside, a):
    excluded = outside and (mode == "cubic" or antialias)
    x = nets.normal(length, length)
    wanted = resized(
        f'mode="{mode}", coordinate_transformation_mode="{place}", antialias={int(antialias)}, '
        f"exclude_outside={int(excluded)}, cubic_coeff_a={a}", x, scale,
    )  # fmt: skip
    # Under antialiasing, ONNX Runtime copies an axis whose length stays, against the specification.
    assume(not antialias or wanted.size != length or scale == 1)
    kernel = Interpolation(mode, place, a, excluded, antialias)
    found = kernel.matrix(length, wanted.size, float(np.float32(scale))) @ x
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(length=LENGTHS, scale=SCALES, place=st.sampled_from(sorted(PLACES)), rounding=st.sampled_from(ROUNDING))
def test_the_nearest_point_is_the_same(length, scale, place, rounding):
    x = np.arange(length, dtype=np.float32)
    wanted = resized(f'coordinate_transformation_mode="{place}", nearest_mode="{rounding}"', x, scale)
    found = nearest(place, rounding, length, wanted.size, float(np.float32(scale)))
    certain = np.ones(wanted.size, bool)
    if place == "half_pixel_symmetric":  # on an edge between two points the order of its float32 sums decides
        places = length / 2 * (1 - wanted.size / (scale * length)) + (np.arange(wanted.size) + 0.5) / scale - 0.5
        edges = 2 * places if rounding.startswith("round") else places
        certain = np.abs(edges - np.rint(edges)) > 1e-5
    np.testing.assert_array_equal(found[certain], wanted[certain])
    assert np.abs(found - wanted).max(initial=0) <= 1
