"""Where a drawn graph takes its choices from: a seed, or the choices of an earlier graph, shortened.

The lowest number is the simplest choice: what is picked first, and no chance taken. A graph is made smaller by its
choices ("Test-Case Reduction via Test-Case Generation", MacIver and Donaldson, ECOOP 2020): every list of numbers
stands for some graph, so that shorter lists and lower numbers stand for smaller ones. Hypothesis draws the seeds; its
own mutations of long lists of choices would draw the same few graphs again and again.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    """A source of whole numbers."""

    def integer(self, low: int, high: int) -> int:
        """Returns a number from `low` to `high`, both included."""

    def begin(self) -> None:
        """Notes that what is chosen from here on belongs together, and can be left out as a whole."""


@dataclass
class Record:
    """What was chosen.

    Attributes:
        made: How far each choice was above the lowest.
        begins: Where choices begin that belong together.
    """

    made: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)

    def begin(self) -> None:
        self.begins.append(len(self.made))


class Seeded(Record):
    """Choices of a pseudo-random generator."""

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self._random = random.Random(seed)  # noqa: S311 - nothing secret is drawn

    def integer(self, low: int, high: int) -> int:
        self.made.append(self._random.randint(0, high - low))
        return low + self.made[-1]


class Repeated(Record):
    """The choices of a list, as far as they fit; behind its end always the lowest."""

    def __init__(self, choices: Sequence[int]) -> None:
        super().__init__()
        self._choices = choices

    def integer(self, low: int, high: int) -> int:
        place = len(self.made)
        wanted = self._choices[place] if place < len(self._choices) else 0
        self.made.append(min(wanted, high - low))
        return low + self.made[-1]


def pick(choices: Choices, options: Sequence[T]) -> T:
    """Returns one of the options; the first is the simplest."""
    return options[choices.integer(0, len(options) - 1)]


def chance(choices: Choices, percent: int) -> bool:
    """Returns whether something of that probability happens."""
    return choices.integer(0, 99) >= 100 - percent


def smallest(record: Record, attempt: Callable[[Sequence[int]], Record | None]) -> Record:
    """Returns the shortest choices, with the lowest numbers, that still fail, as far as simple steps lead.

    Args:
        record: Choices that fail.
        attempt: Tries others, and returns what was chosen if they fail too.
    """
    while True:
        for candidate in _smaller(record):
            if (found := attempt(candidate)) is not None and _size(found) < _size(record):
                record = found
                break
        else:
            return record


def _size(record: Record) -> tuple[int, int]:
    return len(record.made), sum(record.made)


def _smaller(record: Record) -> Iterator[list[int]]:
    made = record.made
    spans = list(itertools.pairwise([*record.begins, len(made)]))
    for start, end in spans[::-1]:
        yield made[:start] + made[end:]
    for start, end in spans:
        if any(made[start:end]):
            yield made[:start] + [0] * (end - start) + made[end:]
    size = 8
    while size:
        for start in range(0, len(made), size):
            yield made[:start] + made[start + size :]
            if any(made[start : start + size]):
                yield made[:start] + [0] * len(made[start : start + size]) + made[start + size :]
        size //= 2
    for place, number in enumerate(made):
        if number > 1:
            yield [*made[:place], number // 2, *made[place + 1 :]]
