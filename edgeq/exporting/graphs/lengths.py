"""`Length`: a dimension that is not known before the model runs, and arithmetic with it, exact or opaque."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

_MONOMIAL = re.compile(r"(?:(\d+)\*)?([^\s*]+(?:\*[^\s*]+)*)")


@dataclass(frozen=True)
class Length:
    """A product of a number and of unknowns, such as `4 N`.

    Equal ones hold the same number at every run; two that differ may do so too.

    Attributes:
        factor: The number.
        unknowns: Names of the unknowns, sorted. What cannot be written as a product is an unknown of its own.
        positive: Whether it is at least one whatever the inputs are, as a batch is.
    """

    factor: Fraction
    unknowns: tuple[str, ...]
    positive: bool = True

    @classmethod
    def named(cls, name: str, *, positive: bool = True) -> Length:
        """Returns the unknown of a name."""
        return cls(Fraction(1), (name,), positive)

    @classmethod
    def parse(cls, text: str, names: Collection[str]) -> Length | None:
        """Returns the product that a name of a dimension spells, such as `64*batch`; `None` for other unknowns.

        Args:
            text: The name.
            names: The unknowns that may occur in it.
        """
        match = _MONOMIAL.fullmatch(text)
        unknowns = match[2].split("*") if match is not None else []
        if match is None or any(name not in names for name in unknowns):
            return None
        return cls(Fraction(int(match[1] or 1)), tuple(sorted(unknowns)))

    @property
    def is_whole(self) -> bool:
        """Whether it is an integer for sure."""
        return self.factor.denominator == 1

    def __str__(self) -> str:
        number = [] if self.factor == 1 else [str(self.factor)]
        return "*".join([*number, *self.unknowns])


_SHORT = 1 << 10

Number: TypeAlias = int | float | Length
"""One element of a shape tensor; bools are ints."""


def product(numbers: Sequence[Number]) -> Number:
    """Returns the product of numbers."""
    factor, unknowns, positive = Fraction(1), list[str](), True
    for number in numbers:
        if isinstance(number, Length):
            unknowns += number.unknowns
        factor *= number.factor if isinstance(number, Length) else Fraction(number)
        positive = positive and is_positive(number)
    return _simplest(factor, unknowns, positive)


def quotient(dividend: Number, divisor: Number) -> Number | None:
    """Returns a quotient, an integer times unknowns; `None` if there may be a remainder."""
    above, below = _as_length(dividend), _as_length(divisor)
    if not below.factor or (below.unknowns and not below.positive):
        return None
    remaining = Counter(above.unknowns)
    remaining.subtract(below.unknowns)
    factor = above.factor / below.factor
    if min(remaining.values(), default=0) < 0 or factor.denominator != 1:
        return None
    return _simplest(factor, list(remaining.elements()), above.positive and below.positive)


def is_positive(number: Number) -> bool:
    """Returns whether a number is above zero for sure."""
    return number.positive if isinstance(number, Length) else number > 0


def compute(operator: str, *numbers: Number) -> Number:
    """Returns what an element-wise operator of ONNX makes of numbers, of which some are unknown.

    Args:
        operator: Name of the operator; `Divide` for a `Div` of floats. What has no rule here, or no simpler form,
            becomes an unknown of its own.
        numbers: The operands, at least one of them unknown.
    """
    rule = _RULES.get(operator)
    found = rule(*numbers) if rule is not None else None
    if found is not None:
        return found
    positive = operator in ("Add", "Max") and all(map(is_positive, numbers))
    return Length.named(f"{operator}({', '.join(map(str, numbers))})", positive=positive)


def _as_length(number: Number) -> Length:
    return number if isinstance(number, Length) else Length(Fraction(number), (), number > 0)


def _simplest(factor: Fraction, unknowns: Sequence[str], positive: bool) -> Number:
    if not unknowns or not factor:
        return int(factor) if factor.denominator == 1 else float(factor)
    return Length(factor, tuple(sorted(unknowns)), positive)


def _add(one: Number, other: Number) -> Number | None:
    a, b = _as_length(one), _as_length(other)
    if not a.factor or not b.factor:
        return other if not a.factor else one
    if a.unknowns != b.unknowns:
        return None
    return _simplest(a.factor + b.factor, a.unknowns, a.positive and b.positive)


def _sub(one: Number, other: Number) -> Number | None:
    b = _as_length(other)
    return _add(one, Length(-b.factor, b.unknowns, positive=False))


def _mul(one: Number, other: Number) -> Number | None:
    found = product([one, other])
    # Halves and quarters of a length are exact in floats, tenths are not.
    is_exact = not isinstance(found, Length) or found.is_whole or max(found.factor.as_integer_ratio()) <= _SHORT
    return found if is_exact else None


def _divide(one: Number, other: Number) -> Number | None:
    a, b = _as_length(one), _as_length(other)
    exact = quotient(one, other)
    if exact is not None or not b.factor:
        return exact
    if a.unknowns == b.unknowns:
        return float(a.factor / b.factor)
    return None if b.unknowns else _mul(one, float(1 / b.factor)) if _is_power_of_two(b.factor) else None


def _is_power_of_two(factor: Fraction) -> bool:
    above, below = factor.as_integer_ratio()
    return above > 0 and not (above & (above - 1)) and not (below & (below - 1))


def _mod(one: Number, other: Number) -> Number | None:
    return None if quotient(one, other) is None else 0


def _whole(number: Number) -> Number | None:
    return number if isinstance(number, Length) and number.is_whole else None


def _max(one: Number, other: Number) -> Number | None:
    if one == other:
        return one
    lengths = [number for number in (one, other) if isinstance(number, Length)]
    (number,) = [number for number in (one, other) if not isinstance(number, Length)] or [2.0]
    # A length of a tensor is at least one.
    return lengths[0] if number <= 1 and lengths[0].positive and lengths[0].is_whole else None


def _min(one: Number, other: Number) -> Number | None:
    if one == other:
        return one
    longest = _max(one, other)
    return None if longest is None else (other if longest is one else one)


def _equal(one: Number, other: Number) -> Number | None:
    if one == other:
        return 1
    for number, length in ((one, other), (other, one)):
        if not isinstance(number, Length) and number <= 0 and is_positive(length):
            return 0
    return None


def _less(one: Number, other: Number) -> Number | None:
    if one == other or (not isinstance(other, Length) and other <= 1 and _is_length(one)):
        return 0
    if not isinstance(one, Length) and one <= 0 and is_positive(other):
        return 1
    return None


def _less_or_equal(one: Number, other: Number) -> Number | None:
    if one == other or (not isinstance(one, Length) and one <= 1 and _is_length(other)):
        return 1
    if not isinstance(other, Length) and other <= 0 and is_positive(one):
        return 0
    return None


def _is_length(number: Number) -> bool:
    return isinstance(number, Length) and number.positive and number.is_whole


def _where(condition: Number, one: Number, other: Number) -> Number | None:
    if one == other:
        return one
    return None if isinstance(condition, Length) else (one if condition else other)


_RULES: dict[str, Callable[..., Number | None]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": quotient,
    "Divide": _divide,
    "Mod": _mod,
    "Max": _max,
    "Min": _min,
    "Floor": _whole,
    "Ceil": _whole,
    "Round": _whole,
    "Abs": lambda number: number if is_positive(number) else None,
    "Neg": lambda number: product([number, -1]),
    "Equal": _equal,
    "Less": _less,
    "LessOrEqual": _less_or_equal,
    "Greater": lambda one, other: _less(other, one),
    "GreaterOrEqual": lambda one, other: _less_or_equal(other, one),
    "Where": _where,
}
