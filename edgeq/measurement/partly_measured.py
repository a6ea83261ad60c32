"""Files of a benchmark that cannot be run: the others are measured without them, and kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from edgeq.errors import EngineError
from edgeq.results.measurement import BenchResult
from edgeq.runtimes.child import RunnerProcess


class PartlyMeasuredError(EngineError):
    """An engine failed on some files of a benchmark.

    Attributes:
        errors: What went wrong.
        results: What was measured of the others.
    """

    def __init__(self, errors: Sequence[EngineError], results: Sequence[BenchResult]) -> None:
        names = ", ".join(f"{result.artifact} in {result.runtime}" for result in results)
        super().__init__(f"{'; '.join(map(str, errors))}; what was measured of {names} is kept")
        self.errors, self.results = tuple(errors), tuple(results)


class Running(Protocol):
    """What runs in a process."""

    process: RunnerProcess


Row = TypeVar("Row", bound=Running)


class Failures:
    """The processes of a benchmark that failed; the others go on without them."""

    def __init__(self) -> None:
        self._errors: dict[RunnerProcess, EngineError] = {}

    @contextlib.contextmanager
    def noted(self, process: RunnerProcess) -> Iterator[None]:
        """Notes that an engine failed in the block, which ends there."""
        try:
            yield
        except EngineError as error:
            self._errors[process] = error

    def left(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the rows whose process has not failed.

        Raises:
            EngineError: that of the first that failed, if none is left.
        """
        found = [row for row in rows if row.process not in self._errors]
        if not found and self._errors:
            raise next(iter(self._errors.values()))
        return found

    def tell(self, results: Sequence[BenchResult]) -> None:
        """Raises what failed, with the results of the others."""
        if self._errors and results:
            raise PartlyMeasuredError(list(self._errors.values()), results)
        self.left([])
