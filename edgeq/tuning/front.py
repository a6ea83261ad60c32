"""The additive model of a file: what each group of layers costs in each precision, and its exact Pareto front.

Noise, time and size of a file are the sums over its groups. A tensor that one group writes in one precision and another
reads in the other is converted, once for all its readers. Which precisions leave the least noise within a time and a
size is a mixed-integer linear program: a variable of 0 or 1 for each precision of each group, one for each conversion.
It is solved exactly by HiGHS through `scipy.optimize.milp`. With a series of times it gives the front
(epsilon-constraint method; Haimes, Lasdon and Wismer, 1971).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from edgeq.tuning.candidate import FLOAT

Cost = Literal["noise", "time_us", "size_bytes"]
"""What is added up."""

_TIE = 1e-4
"""Of several files with the least of one cost, the one with less of the others is taken: their weight for that."""

_SLACK = 1e-6
"""Of a limit: what a solver may be off by."""


@dataclass(frozen=True)
class Option:
    """What a group costs in one precision.

    Attributes:
        noise: Noise that it leaves in the outputs, in any unit that adds up.
        time_us: Time that it takes, without conversions.
        size_bytes: Size of its weights.
    """

    noise: float = 0.0
    time_us: float = 0.0
    size_bytes: float = 0.0


@dataclass(frozen=True)
class Link:
    """A tensor between groups.

    Attributes:
        writer: The group that writes it.
        readers: The groups that read it.
        quantize_us: What it costs if the writer is in float and any reader is not.
        dequantize_us: What it costs if the writer is not in float and any reader is.
    """

    writer: str
    readers: tuple[str, ...]
    quantize_us: float = 0.0
    dequantize_us: float = 0.0


@dataclass(frozen=True)
class Problem:
    """A file as the sum of its groups.

    Attributes:
        groups: Name -> precision -> what it costs. One with a single precision has no choice.
        links: The tensors between them.
    """

    groups: Mapping[str, Mapping[str, Option]]
    links: tuple[Link, ...] = ()

    def total(self, cost: Cost, precisions: Mapping[str, str]) -> float:
        """Returns what a file costs.

        Args:
            cost: Which of the costs.
            precisions: Name of each group -> its precision.
        """
        total = sum(float(getattr(options[precisions[name]], cost)) for name, options in self.groups.items())
        if cost != "time_us":
            return total
        is_float = {name: precisions[name] == FLOAT for name in self.groups}
        for link in self.links:
            if is_float[link.writer]:
                total += link.quantize_us * any(not is_float[name] for name in link.readers)
            else:
                total += link.dequantize_us * any(is_float[name] for name in link.readers)
        return total


@dataclass(frozen=True, eq=False)
class Solver:
    """Solves a problem for several limits.

    Attributes:
        problem: The problem.
    """

    problem: Problem

    @cached_property
    def _names(self) -> list[tuple[str, str]]:
        """What the first variables stand for: a group in a precision."""
        return [(name, precision) for name, options in self.problem.groups.items() for precision in options]

    def least(self, cost: Cost, limits: Mapping[Cost, float]) -> dict[str, str] | None:
        """Returns name of a group -> its precision, of the file with the least of a cost within limits.

        `None` if no file keeps them.

        Args:
            cost: What is least.
            limits: Cost -> the most that a file may have of it.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        vectors = {each: self._vector(each) for each in ("noise", "time_us", "size_bytes")}
        scales = {each: max(float(np.abs(vector).sum()), 1e-30) for each, vector in vectors.items()}
        objective = vectors[cost] / scales[cost]
        for other in vectors.keys() - {cost}:
            objective = objective + _TIE * vectors[other] / scales[other] / len(objective)
        rows, lows, highs = self._structure()
        for each, limit in limits.items():
            rows.append(vectors[each] / scales[each])
            lows.append(-math.inf)
            highs.append(limit / scales[each] + _SLACK * abs(limit) / scales[each])
        integer = np.zeros(len(objective))
        integer[: len(self._names)] = 1
        with _nothing_printed():
            found = milp(
                objective * 1e3,  # HiGHS takes differences below 1e-6 for none
                integrality=integer,
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(np.array(rows), lows, highs),
                options={"mip_rel_gap": 0.0},
            )
        if found.x is None:
            return None
        return {name: precision for (name, precision), value in zip(self._names, found.x, strict=False) if value > 0.5}

    def front(self, cost: Cost, limits: Mapping[Cost, float], steps: int) -> Iterator[dict[str, str]]:
        """Yields files of the front of noise and another cost, the one with the least of that cost first.

        Some have the least noise for amounts of the cost that are evenly spaced; they cover it. The others have the
        least of the cost for ever less noise, a fourth each time: what INT8 gains at hardly any noise is among them.

        Args:
            cost: Time or size.
            limits: Further limits.
            steps: How many amounts of each are tried.
        """
        ends = [self.least(cost, limits), self.least("noise", limits)]
        if ends[0] is None or ends[1] is None:
            return
        least, most = (self.problem.total(cost, end) for end in ends if end is not None)
        loudest = self.problem.total("noise", ends[0])
        amounts: list[tuple[Cost, Cost, float]] = [
            *(("noise", cost, float(amount)) for amount in np.linspace(least, max(least, most), steps)),
            *((cost, "noise", loudest / 4.0**step) for step in range(1, steps + 1)),
        ]
        seen: list[dict[str, str]] = []
        for wanted, limited, amount in amounts:
            found = self.least(wanted, {**limits, limited: min(amount, limits.get(limited, math.inf))})
            if found is not None and found not in seen:
                seen.append(found)
                yield found

    def _vector(self, cost: Cost) -> np.ndarray:
        """Returns what each variable adds to a cost: the precisions of all groups, then both conversions of links."""
        own = [getattr(self.problem.groups[name][precision], cost) for name, precision in self._names]
        converted = [value for link in self.problem.links for value in (link.quantize_us, link.dequantize_us)]
        return np.array([*own, *(converted if cost == "time_us" else [0.0] * len(converted))], np.float64)

    def _structure(self) -> tuple[list[np.ndarray], list[float], list[float]]:
        """Returns the rows that make variables one file, each with its bounds.

        A group has one precision; a conversion is at least the difference of what its writer and a reader are.
        """
        width = len(self._names) + 2 * len(self.problem.links)
        rows, lows, highs = [], [], []
        integers: dict[str, np.ndarray] = {}
        for name in self.problem.groups:
            own = np.array([float(each == name) for each, _ in self._names] + [0.0] * (width - len(self._names)))
            rows.append(own)
            lows.append(1.0)
            highs.append(1.0)
            kinds = [float(precision != FLOAT) for _, precision in self._names]
            integers[name] = own * np.array(kinds + [0.0] * (width - len(kinds)))
        for index, link in enumerate(self.problem.links):
            for sign, offset in ((1, 0), (-1, 1)):
                for reader in link.readers:
                    row = sign * (integers[reader] - integers[link.writer])
                    row[len(self._names) + 2 * index + offset] -= 1
                    rows.append(row)
                    lows.append(-math.inf)
                    highs.append(0.0)
        return rows, lows, highs


@contextlib.contextmanager
def _nothing_printed() -> Iterator[None]:
    """Discards what a C library prints: HiGHS of scipy 1.17 has a debugging line that no option switches off."""
    flush = ctypes.CDLL(None).fflush  # C has a buffer that Python does not know
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            yield
            flush(None)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def pareto(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Returns the positions of those that no other one dominates: less or equal in all numbers, less in one.

    Of equal ones the first counts.

    Args:
        points: Of each file several numbers, all the better the less.
    """
    return [
        index for index, own in enumerate(points)
        if not any(
            all(a <= b for a, b in zip(other, own, strict=True)) and (other != own or position < index)
            for position, other in enumerate(points)
            if position != index
        )
    ]  # fmt: skip
