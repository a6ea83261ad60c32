"""Tensors of two graphs are found in each other by their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.exporting.tflite.match import TOLERANCE, match_by_value, match_lines
from tests.exporting import nets
from tests.tflite_nets import channel_last


@settings(max_examples=50, deadline=None)
@given(
    shapes=st.lists(
        st.one_of(
            st.tuples(st.just(1), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
            st.tuples(st.just(1), st.integers(1, 9)),
            st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 5)),
        ),
        min_size=1, max_size=8,
    ),
    noise=st.floats(0, 0.4 * TOLERANCE), probes=st.integers(1, 2),
)  # fmt: skip
def test_every_tensor_finds_itself_whatever_its_layout(
    shapes: list[tuple[int, ...]], noise: float, probes: int
) -> None:
    found, wanted = [], []
    for probe in range(probes):
        arrays = {f"t{i}": nets.normal(100 * probe + i, *shape) for i, shape in enumerate(shapes)}
        found.append(arrays)
        wanted.append(
            {
                name.upper(): (channel_last(array) if array.ndim == 4 else array)
                + np.float32(noise * np.abs(array).max())
                for name, array in arrays.items()
            }
        )
    assert match_by_value(found, wanted) == {name.upper(): name for name in found[0]}


def test_the_closest_of_several_is_taken() -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    found = {"far": x * 1.0008, "near": x * 1.00001, "other": x * 1.0005}
    assert match_by_value([found], [{"y": channel_last(x)}]) == {"y": "near"}


def test_equal_ones_are_all_matched_and_the_first_is_taken() -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    wanted = {"y": channel_last(x), "z": channel_last(x)}
    assert match_by_value([{"a": x, "b": x.copy()}], [wanted]) == {"y": "a", "z": "a"}


def test_the_second_probe_tells_apart_what_the_first_cannot() -> None:
    zeros, x = np.zeros((1, 2, 3, 3), np.float32), nets.normal(1, 1, 2, 3, 3)
    found = [{"a": zeros, "b": zeros}, {"a": x, "b": -x}]
    assert match_by_value(found, [{"y": channel_last(zeros)}, {"y": channel_last(-x)}]) == {"y": "b"}


def test_another_shape_of_the_same_size_is_no_match() -> None:
    x = nets.normal(1, 1, 4, 2, 3)
    assert match_by_value([{"a": x.reshape(1, 2, 4, 3)}], [{"y": channel_last(x)}]) == {}
    assert match_by_value([{"a": x}], [{"y": x.reshape(1, 2, 3, 4)}]) == {}


@pytest.mark.parametrize(("shape", "flat"), [((1, 7, 1, 1), (1, 7)), ((1, 7, 1, 5), (1, 7, 5)), ((1, 7), (7,))])
def test_axes_of_length_one_are_no_difference(shape: tuple[int, ...], flat: tuple[int, ...]) -> None:
    x = nets.normal(1, *shape)
    assert match_by_value([{"a": x.reshape(flat)}], [{"y": channel_last(x) if x.ndim == 4 else x}]) == {"y": "a"}


@pytest.mark.parametrize(("difference", "matches"), [(0.5 * TOLERANCE, True), (2 * TOLERANCE, False)])
def test_nothing_beyond_the_tolerance_matches(difference: float, matches: bool) -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    other = x.copy()
    other[0, 1, 2, 3] += np.float32(difference * np.abs(x).max())
    assert bool(match_by_value([{"a": other}], [{"y": channel_last(x)}])) == matches


def test_tensors_of_zeros_and_broken_ones() -> None:
    zeros = np.zeros((1, 2, 3, 3), np.float32)
    assert match_by_value([{"a": zeros}], [{"y": channel_last(zeros)}]) == {"y": "a"}
    assert match_by_value([{"a": zeros * np.nan}], [{"y": channel_last(zeros)}]) == {}
    assert match_by_value([], []) == {}


def test_what_one_graph_lacks_is_left_out() -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    assert match_by_value([{"a": x, "b": 2 * x}], [{"y": channel_last(x), "z": channel_last(3 * x)}]) == {"y": "a"}


def test_maps_that_stay_channels_first_are_found_too() -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    assert match_by_value([{"a": x}], [{"y": x, "z": channel_last(x)}]) == {"y": "a", "z": "a"}


def test_padding_with_infinity_is_no_match_and_no_trouble() -> None:
    x = nets.normal(1, 1, 3, 4, 5)
    other = x.copy()
    other[0, 0] = -np.inf
    assert match_by_value([{"a": x, "b": other}], [{"y": channel_last(other)}]) == {}
    assert match_lines([{"a": x}], [{"y": channel_last(other)}], {"y": (-np.inf, np.inf)}) == {}


EVERYTHING = (-np.inf, np.inf)


@pytest.mark.parametrize("ends", [EVERYTHING, (0.0, np.inf), (0.0, 6.0), (-1.0, 1.0)])
@pytest.mark.parametrize(("factor", "offset"), [(0.2, 0.5), (-3.0, 0.0), (1.0, 2.0), (2.0, -0.7)])
def test_a_multiple_with_an_offset_is_found_behind_its_clamp(
    factor: float, offset: float, ends: tuple[float, float]
) -> None:
    found = [{"a": nets.normal(seed, 1, 3, 4, 5), "b": nets.normal(seed + 9, 1, 3, 4, 5)} for seed in range(2)]
    wanted = [{"y": channel_last(np.clip(factor * probe["a"] + offset, *ends))} for probe in found]
    line = match_lines(found, wanted, {"y": ends})["y"]
    assert line.name == "a"
    assert (line.factor, line.offset) == pytest.approx((factor, offset), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(line.of(found[0]["a"]), np.clip(factor * found[0]["a"] + offset, *ends), atol=1e-5)


def test_what_is_no_line_over_all_probes_is_none() -> None:
    x = [nets.normal(seed, 1, 3, 4, 5) for seed in range(2)]
    found = [{"a": each} for each in x]
    for other in (
        [x[0] * 2, x[1] * 3],
        [x[0] ** 2, x[1] ** 2],
        [each * nets.positive(5, 1, 3, 1, 1) for each in x],
        [each * 0 for each in x],
    ):
        assert match_lines(found, [{"y": channel_last(each)} for each in other], {"y": EVERYTHING}) == {}
    assert match_lines([], [], {}) == {}


def test_so_few_values_that_any_line_fits_are_no_evidence() -> None:
    found, wanted = [{"a": nets.normal(1, 1, 2)}], [{"y": nets.normal(2, 1, 2)}]
    assert match_lines(found, wanted, {"y": EVERYTHING}) == {}
    more = [{"a": nets.normal(seed, 1, 2)} for seed in range(4)]
    assert match_lines(more, [{"y": probe["a"] * 3} for probe in more], {"y": EVERYTHING})["y"].name == "a"
