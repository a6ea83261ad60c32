"""Connected components of a bitmap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def components(bitmap: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Returns, for each component, the ends of its runs: `(2 R, 2)`, column and row; its hull is that of its pixels.

    Pixels that touch at a side or a corner are of one component. Components are in the order of their first pixels.

    Args:
        bitmap: `(H, W)`.
    """
    padded = np.pad(bitmap, ((0, 0), (1, 1))).astype(np.int8)
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1] - 1
    parents = np.arange(len(rows))
    first_of_row = np.searchsorted(rows, np.arange(len(bitmap) + 1))
    for row in range(1, len(bitmap)):
        above, here = first_of_row[row - 1], first_of_row[row]
        while above < first_of_row[row] and here < first_of_row[row + 1]:
            if starts[above] <= ends[here] + 1 and starts[here] <= ends[above] + 1:
                _join(parents, int(above), int(here))
            # Whichever run ends first touches no further one.
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    roots = np.array([_root(parents, run) for run in range(len(rows))], np.intp)
    points = np.concatenate([np.stack([starts, rows], axis=1), np.stack([ends, rows], axis=1)])
    owners = np.concatenate([roots, roots])
    order = np.argsort(owners, kind="stable")
    breaks = np.flatnonzero(np.diff(owners[order])) + 1
    return np.split(points[order], breaks) if len(points) else []


def _root(parents: NDArray[np.intp], run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = int(parents[run])
    return run


def _join(parents: NDArray[np.intp], first: int, second: int) -> None:
    one, other = _root(parents, first), _root(parents, second)
    parents[max(one, other)] = min(one, other)
