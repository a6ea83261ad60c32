"""Tensors are followed through TFLite operators, on graphs made by hand: one small graph for each operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeq.calibrators.histogram import Histogram
from edgeq.exporting.tflite.follow import Followed, fused_limits
from edgeq.exporting.tflite.graph import Graph, Operator, Tensor
from tests.exporting import nets

VALUES = nets.normal(1, 400)

Line = tuple[str, str, Sequence[str], Mapping[str, Any]]
"""An operator: its outputs, its kind, its inputs and its options."""


def line(made: str, kind: str, *given: str, **options: Any) -> Line:
    return made, kind, given, options


def graph(lines: Sequence[Line], constants: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    names = list(dict.fromkeys(name for made, _, given, _ in lines for name in (*given, *made.split())))
    values = {names.index(name): np.array(value, np.float32) for name, value in constants.items()}
    tensors = [
        Tensor(index, name, shapes.get(name, (400,)), "float32", index in values) for index, name in enumerate(names)
    ]
    numbers = {name: index for index, name in enumerate(names)}
    operators = [
        Operator(index, kind, _numbers(numbers, given), _numbers(numbers, made.split()), SimpleNamespace(**options))
        for index, (made, kind, given, options) in enumerate(lines)
    ]
    return Graph(tuple(tensors), tuple(operators), (0,), (len(names) - 1,), values)


def _numbers(numbers: Mapping[str, int], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(numbers[name] for name in names)


def followed(
    *lines: Line,
    constants: Mapping[str, Any] | None = None,
    known: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Followed:
    """Returns a graph in which `x` is known, or what `known` says; the twin of a tensor is its name in capitals."""
    histograms = {name: Histogram.of(array) for name, array in (known or {"x": VALUES}).items()}
    found = graph(lines, constants or {}, shapes or {})
    return Followed(found, {name: name.upper() for name in histograms}, histograms)


def assert_close(found: Histogram | None, expected: np.ndarray) -> None:
    """Asserts that a histogram is that of values, to a bin of 2**-14 of the largest."""
    assert found is not None and found.total == expected.size
    step = 2.0**-13 * np.abs(expected).max()
    np.testing.assert_allclose((found.minimum, found.maximum), (expected.min(), expected.max()), atol=step)
    values = np.repeat(found.centers(), found.counts)
    np.testing.assert_allclose(values, np.sort(expected.ravel()), atol=2 * step)


@pytest.mark.parametrize("kind", ["RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "DEPTH_TO_SPACE", "PAD"])
def test_what_moves_all_values_is_followed_both_ways(kind: str) -> None:
    assert followed(line("y", kind, "x", "shape")).same("y") == "X"
    assert followed(line("y", kind, "x", "shape"), known={"y": VALUES}).same("x") == "Y"
    far = followed(line("a", kind, "x", "shape"), line("b", "RESHAPE", "a", "shape"), line("c", "TRANSPOSE", "b", "p"))
    assert far.same("c") == "X"


def test_another_reader_does_not_lead_astray() -> None:
    """What is made of a tensor besides its copies says nothing about it."""
    found = followed(line("y", "CONV_2D", "x", "w"), line("z", "SLICE", "x", "at"), known={"y": VALUES, "z": VALUES})
    assert found.same("x") is None and found.histogram("x") is None and found.whole("x") is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("RELU", np.maximum(VALUES, 0)),
        ("RELU6", np.clip(VALUES, 0, 6)),
        ("RELU_N1_TO_1", np.clip(VALUES, -1, 1)),
        ("RELU_0_TO_1", np.clip(VALUES, 0, 1)),
        ("LOGISTIC", 1 / (1 + np.exp(-VALUES))),
        ("TANH", np.tanh(VALUES)),
        ("HARD_SWISH", VALUES * np.clip(VALUES + 3, 0, 6) / 6),
        ("ABS", np.abs(VALUES)),
        ("NEG", -VALUES),
        ("SQUARE", VALUES**2),
    ],
)
def test_a_function_of_each_value_is_applied_to_the_histogram(kind: str, expected: np.ndarray) -> None:
    assert_close(followed(line("y", kind, "x")).histogram("y"), expected)


def test_a_leaky_relu_has_its_slope() -> None:
    found = followed(line("y", "LEAKY_RELU", "x", alpha=0.1)).histogram("y")
    assert_close(found, np.where(VALUES < 0, VALUES * np.float32(0.1), VALUES))


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("ADD", ("x", "c"), VALUES + 0.7),
        ("ADD", ("c", "x"), VALUES + 0.7),
        ("SUB", ("x", "c"), VALUES - 0.7),
        ("SUB", ("c", "x"), 0.7 - VALUES),
        ("MUL", ("x", "c"), VALUES * 0.7),
        ("DIV", ("x", "c"), VALUES / 0.7),
        ("MINIMUM", ("x", "c"), np.minimum(VALUES, 0.7)),
        ("MAXIMUM", ("x", "c"), np.maximum(VALUES, 0.7)),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 4)])
def test_a_number_is_computed_with(
    kind: str, given: Sequence[str], expected: np.ndarray, shape: tuple[int, ...]
) -> None:
    forward = followed(line("y", kind, *given), constants={"c": np.full(shape, 0.7)})
    assert_close(forward.histogram("y"), expected)
    back = followed(line("y", kind, *given), constants={"c": np.full(shape, 0.7)}, known={"y": expected})
    # What a clamp cuts off may be missing before it too.
    assert_close(back.histogram("x"), expected if kind in ("MINIMUM", "MAXIMUM") else VALUES)


def test_a_fused_activation_cuts_off_and_is_not_read_back() -> None:
    for number, (low, high) in {1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}.items():
        lines = line("y", "ADD", "x", "c", fusedActivationFunction=number)
        expected = np.clip(VALUES + 0.5, low, high)
        assert_close(followed(lines, constants={"c": 0.5}).histogram("y"), expected)
        assert followed(lines, constants={"c": 0.5}, known={"y": expected}).histogram("x") is None
    bent = line("y", "ADD", "x", "c", fusedActivationFunction=4)
    assert followed(bent, constants={"c": 0.5}).histogram("y") is None
    assert fused_limits(graph([bent], {"c": 0.5}, {}).operators[0]) is None


@pytest.mark.parametrize(
    "lines",
    [
        line("y", "MUL", "x", "c"),  # another number for each channel
        line("y", "ADD", "x", "z"),
        line("y", "DIV", "c0", "x"),
        line("y", "CONV_2D", "x", "c0"),
        line("y", "AVERAGE_POOL_2D", "x"),
        line("y", "MEAN", "x", "c0"),
    ],
)
def test_what_is_no_arithmetic_on_one_histogram_stays_unknown(lines: Line) -> None:
    constants = {name: value for name, value in {"c": [1.0, 2.0], "c0": 2.0}.items() if name in lines[2]}
    found = followed(lines, constants=constants, known={"x": VALUES, "z": VALUES})
    assert found.same("y") is None and found.histogram("y") is None


@pytest.mark.parametrize("fill", [0.0, -np.inf, np.inf])
def test_padding_with_zero_or_infinity_changes_no_range(fill: float) -> None:
    lines = line("y", "PADV2", "x", "pads", "fill")
    assert followed(lines, constants={"fill": fill}).same("y") == "X"


def test_padding_with_a_number_counts_as_often_as_it_is_there() -> None:
    lines = line("y", "PADV2", "x", "pads", "fill")
    found = followed(lines, constants={"fill": 9.0}, shapes={"x": (1, 10, 10, 4), "y": (1, 12, 12, 4)})
    assert found.same("y") is None
    assert_close(found.histogram("y"), np.concatenate([VALUES, np.full(176, 9.0, np.float32)]))


@pytest.mark.parametrize("kind", ["CONCATENATION", "PACK"])
def test_a_join_is_the_union_of_its_parts(kind: str) -> None:
    other = nets.normal(2, 100) * 3
    found = followed(line("y", kind, "x", "z"), known={"x": VALUES, "z": other})
    assert_close(found.histogram("y"), np.concatenate([VALUES, other]))
    assert followed(line("y", kind, "x", "z")).histogram("y") is None


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_what_is_split_is_the_union_of_the_parts(kind: str) -> None:
    found = followed(line("a b", kind, "x"), known={"a": VALUES[:100], "b": VALUES[100:]})
    assert_close(found.histogram("x"), VALUES)
    assert followed(line("a b", kind, "x"), known={"a": VALUES}).histogram("x") is None


def test_a_part_of_a_split_layer_has_the_range_of_the_whole() -> None:
    lines = [line("a", "CONV_2D", "x", "w"), line("b", "CONV_2D", "x", "v"), line("y", "CONCATENATION", "a", "b")]
    assert followed(*lines, known={"y": VALUES}).whole("a") == "Y"
    # Tensors that are joined have ranges of their own where one of them has.
    assert followed(*lines, known={"y": VALUES, "b": VALUES}).whole("a") is None


def test_several_steps_are_one_way() -> None:
    found = followed(
        line("a", "TRANSPOSE", "x", "p"), line("b", "MUL", "a", "two"), line("c", "ADD", "b", "one"),
        line("d", "RELU", "c"), line("e", "PAD", "d", "pads"), line("y", "MAX_POOL_2D", "e"),
        constants={"two": 2.0, "one": 1.0},
    )  # fmt: skip
    assert_close(found.histogram("y"), np.maximum(2 * VALUES + 1, 0))


def test_nothing_known_ends() -> None:
    """Ways that lead around in circles end, too."""
    found = followed(
        line("a", "RESHAPE", "q", "s"), line("b", "MUL", "a", "c"), constants={"c": 2.0}, known={"z": VALUES}
    )
    assert found.same("b") is None and found.histogram("b") is None
