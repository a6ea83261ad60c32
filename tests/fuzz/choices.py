"""Where a drawn graph takes its choices from: hypothesis, which can shrink them, or a seed.

The lowest number is the simplest choice: what is picked first, and no chance taken.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

T = TypeVar("T")


class Choices(Protocol):
    """A source of whole numbers."""

    def integer(self, low: int, high: int) -> int:
        """Returns a number from `low` to `high`, both included."""


class Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        from hypothesis import strategies

        return self._draw(strategies.integers(low, high)) if low < high else low


class Seeded:
    """Choices of a pseudo-random generator."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret is drawn

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


class Simplest:
    """Always the simplest choice."""

    def integer(self, low: int, _high: int) -> int:
        return low


def pick(choices: Choices, options: Sequence[T]) -> T:
    """Returns one of the options; the first is the simplest."""
    return options[choices.integer(0, len(options) - 1)]


def chance(choices: Choices, percent: int) -> bool:
    """Returns whether something of that probability happens."""
    return choices.integer(0, 99) >= 100 - percent
