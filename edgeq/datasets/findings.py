"""What is odd about a data set: counted, one line for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class _Kind:
    count: int
    first: str


class Findings:
    """Counts what a reader of a data set left out, corrected or wondered about."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, what: str, where: object, count: int = 1) -> None:
        """Counts something.

        Args:
            what: What it is and what became of it, in the plural ("boxes of zero area, left out").
            where: Where it was found; the first place of each kind is named.
            count: How many.
        """
        kind = self._kinds.setdefault(what, _Kind(0, str(where)))
        kind.count += count

    @property
    def lines(self) -> list[str]:
        """One line for each kind, in the order in which they were met."""
        return [f"{what}: {kind.count:,} (the first: {kind.first})" for what, kind in self._kinds.items()]

    def to_json(self) -> list[dict[str, Any]]:
        """Returns what was found, how often, and where first."""
        return [{"what": what, "count": kind.count, "first": kind.first} for what, kind in self._kinds.items()]
