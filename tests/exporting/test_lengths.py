"""Arithmetic with lengths that are not known: what it says holds for every length."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from edgeq.exporting.graphs.lengths import Length, Number, compute, is_positive, product, quotient

N, M = Length.named("N"), Length.named("M")
LENGTHS = {"N": 7, "M": 12}
OPERATORS: dict[str, Callable[[float, float], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda one, other: np.trunc(one / other),
    "Mod": np.mod,
    "Max": np.maximum,
    "Min": np.minimum,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}
numbers = st.one_of(
    st.integers(-3, 12),
    st.builds(
        lambda factor, names: Length(Fraction(factor), tuple(sorted(names))),
        st.integers(1, 12),
        st.lists(st.sampled_from(sorted(LENGTHS)), min_size=1, max_size=2),
    ),
)


def value(number: Number) -> float | None:
    """Returns a number for the lengths above; `None` for an opaque one."""
    if not isinstance(number, Length):
        return float(number)
    if not set(number.unknowns) <= set(LENGTHS):
        return None
    return float(number.factor) * float(np.prod([LENGTHS[name] for name in number.unknowns]))


@hypothesis.given(st.sampled_from(sorted(OPERATORS)), numbers, numbers)
@hypothesis.settings(max_examples=300, deadline=None)
def test_what_is_computed_holds_for_given_lengths(operator: str, one: Number, other: Number) -> None:
    if (operator in ("Div", "Mod") and other == 0) or not any(isinstance(each, Length) for each in (one, other)):
        return
    found = compute(operator, one, other)
    known, a, b = value(found), value(one), value(other)
    assert a is not None and b is not None
    wanted = float(OPERATORS[operator](a, b))
    assert known is None or known == wanted
    assert not is_positive(found) or wanted > 0


@pytest.mark.parametrize(
    ("operator", "operands", "wanted"),
    [
        ("Add", (N, N), 2),
        ("Sub", (N, N), 0),
        ("Mul", (N, 4), 4),
        ("Div", (product([N, 12]), 4), 3),
        ("Div", (product([N, M]), M), 1),
        ("Mod", (product([N, 12]), 4), 0),
        ("Max", (N, 1), 1),
        ("Where", (1, N, 5), 1),
        ("Floor", (product([N, 3]),), 3),
        ("Divide", (product([N, 4]), 8), Fraction(1, 2)),
    ],
)
def test_what_has_a_simple_form_gets_it(operator: str, operands: tuple[Number, ...], wanted: Number | Fraction) -> None:
    found = compute(operator, *operands)
    assert found == wanted or (isinstance(found, Length) and (found.factor, found.unknowns) == (wanted, ("N",)))


def test_what_has_none_is_the_same_unknown_each_time_and_no_length() -> None:
    half = compute("Div", N, 2)
    assert half == compute("Div", N, 2) and half != compute("Div", M, 2)
    assert not is_positive(half)
    assert quotient(N, M) is None and quotient(product([N, 3]), 2) is None and quotient(N, 0) is None


def test_floats_are_followed_as_far_as_they_are_exact() -> None:
    tenth = compute("Mul", N, 0.1)
    assert isinstance(tenth, Length) and tenth.unknowns != ("N",)
    assert compute("Mul", compute("Mul", N, 0.5), 2.0) == N
    assert compute("Divide", product([N, 4]), product([N, 3])) == pytest.approx(4 / 3)


def test_names_of_dimensions_are_read_as_products() -> None:
    names = {"batch", "s0"}
    assert Length.parse("64*batch", names) == Length(Fraction(64), ("batch",))
    assert Length.parse("batch*s0", names) == Length(Fraction(1), ("batch", "s0"))
    assert str(Length.parse("3*batch", names)) == "3*batch"
    for other in ("batch + 1", "unk__0", "2*other", "None", "batch**2"):
        assert Length.parse(other, names) is None
