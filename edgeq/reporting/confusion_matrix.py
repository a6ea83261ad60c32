"""A confusion matrix of the classes that are confused most, with its change from FP32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.tasks.evidence import Confusion

MOST_CLASSES = 10
"""Classes of a matrix; what more are said for them is counted as others."""

NOTHING, OTHERS = "nothing", "other classes"

Key = tuple[str | None, str | None]


@dataclass(frozen=True)
class MatrixCell:
    """How often one class is taken for another.

    Attributes:
        count: How often.
        change: How much more often than in FP32; `None` without it.
        share: Part of the row, 0..1.
        is_right: Whether it is the class itself.
    """

    count: int
    change: int | None
    share: float
    is_right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        names: What the columns are: classes, and what no class is.
        rows: True class -> its cells, in the order of `names`.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]


def confusion_matrix(cells: Sequence[Confusion], reference: Sequence[Confusion] | None) -> Matrix:
    """Returns the matrix of the classes with most errors in either file, the worst first.

    Args:
        cells: The cells of a file that are not empty.
        reference: Those of FP32; `None` for FP32 itself, and where it was not scored on the same images.
    """
    before = () if reference is None else reference
    errors: Counter[str] = Counter()
    for cell in (*cells, *before):
        for name in {cell.truth, cell.found} - {None}:
            errors[str(name)] += cell.count if cell.truth != cell.found else 0
    shown = [name for name, _ in sorted(errors.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_CLASSES]]
    others = [OTHERS] if len(errors) > len(shown) else []
    names: list[str | None] = [*shown, *others, None]
    now, then = (_counts(each, set(shown)) for each in (cells, before))
    rows = []
    for truth in names:
        total = sum(now[truth, found] for found in names) or 1
        row = [
            MatrixCell(
                now[truth, found],
                None if reference is None else now[truth, found] - then[truth, found],
                now[truth, found] / total,
                truth == found and truth not in (None, OTHERS),
            )
            for found in names
        ]
        rows.append((truth or NOTHING, tuple(row)))
    return Matrix(tuple(name or NOTHING for name in names), tuple(rows))


def _counts(cells: Sequence[Confusion], shown: set[str]) -> Counter[Key]:
    counts: Counter[Key] = Counter()
    for cell in cells:
        counts[_place(cell.truth, shown), _place(cell.found, shown)] += cell.count
    return counts


def _place(name: str | None, shown: set[str]) -> str | None:
    return name if name is None or name in shown else OTHERS
