"""What is odd about a data set: counted, one line for each kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One kind of oddity.

    Attributes:
        what: What it is and what became of it, in the plural.
        count: How often it was found.
        first: Where it was found first.
    """

    what: str
    count: int
    first: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.what}: {self.count:,} (the first: {self.first})"


class Findings:
    """Counts what a reader of a data set left out, corrected or wondered about."""

    def __init__(self) -> None:
        self._found: dict[str, Finding] = {}

    def add(self, what: str, where: object, count: int = 1) -> None:
        """Counts something.

        Args:
            what: What it is and what became of it, in the plural ("boxes of zero area, left out").
            where: Where it was found; the first place of each kind is kept.
            count: How many.
        """
        found = self._found.get(what, Finding(what, 0, str(where)))
        self._found[what] = Finding(what, found.count + count, found.first)

    @property
    def kinds(self) -> tuple[Finding, ...]:
        """Each kind, in the order in which they were met."""
        return tuple(self._found.values())

    @property
    def lines(self) -> list[str]:
        """One line for each kind."""
        return [found.line for found in self.kinds]
