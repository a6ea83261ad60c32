"""Images of a task through files, on workers: pieces of work become units, and answers become predictions again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from edgeq.boundary import Count, convert
from edgeq.errors import EngineError, InputError
from edgeq.evaluation.evaluate import make_job
from edgeq.evaluation.inference import SkippedImages, SomeImages
from edgeq.evaluation.prediction_codec import unpack_prediction
from edgeq.exporting.artifact import Artifact
from edgeq.tasks import Task
from edgeq.tuning.executors import Executor, Found
from edgeq.tuning.work_units import WorkImage, WorkUnit, split_evenly


class _Answer(msgspec.Struct):
    """What a worker says of an image."""

    position: Count
    size_px: tuple[Count, Count] = (0, 0)
    prediction: dict[str, Any] | None = None
    unreadable: str | None = None


class _Share(NamedTuple):
    """Some images of a piece of work.

    Attributes:
        piece: Index of the piece.
        unit: What a worker is asked for.
        numbers: Positions of its images in the task.
    """

    piece: int
    unit: WorkUnit
    numbers: Sequence[int]


class DistributedImages:
    """The images of a task, predicted by workers.

    Args:
        task: The task.
        runtime: The runtime that files run in.
        threads: CPU threads of the engine.
        compute_precision: What float layers are computed in.
        executor: The workers.
    """

    def __init__(
        self, task: Task[Any], runtime: str, threads: int | None, compute_precision: str | None, executor: Executor
    ) -> None:
        self._task = task
        self._runtime = runtime
        self._threads = threads
        self._compute_precision = compute_precision
        self._executor = executor
        self._images: dict[int, WorkImage] = {}

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return self._executor.workers

    def predict(
        self, work: Sequence[tuple[Artifact, int]], stages: Sequence[Sequence[int]]
    ) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields (index of a piece of work, position of an image -> what its file says about it) as each is done.

        Args:
            work: Files and stages; each is asked for once, shortly before it is needed.
            stages: Positions of the images of each stage.

        Raises:
            EngineError: no worker is left, or one answers something else than it was asked.
            EdgeqError: a file cannot be run.
        """
        shares: list[_Share] = []
        left: dict[int, int] = {}

        def units() -> Iterator[WorkUnit]:
            for index in range(len(work)):
                artifact, stage = work[index]
                make_job(artifact, self._runtime, self._compute_precision)  # refuses what no worker can run
                parts = split_evenly(stages[stage], len(work), self.workers)
                left[index] = len(parts)
                for numbers in parts:
                    shares.append(self._share(index, artifact, numbers))
                    yield shares[-1].unit

        found: dict[int, dict[int, Any]] = {}
        for number, answers in self._executor.map(units()):
            share = shares[number]
            found.setdefault(share.piece, {}).update(self._read(share, answers))
            left[share.piece] -= 1
            if left[share.piece] == 0:
                yield share.piece, dict(sorted(found.pop(share.piece).items()))

    def _share(self, index: int, artifact: Artifact, numbers: Sequence[int]) -> _Share:
        skipped = self._skipped(numbers)
        readable = []
        for position, number in enumerate(numbers):
            try:
                if number not in self._images:
                    self._images[number] = WorkImage.of(self._task.items[number], self._executor.folder)
                readable.append(number)
            except InputError as error:
                skipped.add(position, self._task.items[number], error)
        images = [self._images[number] for number in readable]
        unit = WorkUnit(artifact, self._runtime, self._threads, self._compute_precision, images)
        return _Share(index, unit, readable)

    def _read(self, share: _Share, answers: Found) -> dict[int, Any]:
        """Returns position of an image in the task -> what a worker says of it."""
        name = share.unit.artifact.name
        stated = convert(answers, list[_Answer], source=name, kind="an answer", place="found", error=EngineError)
        if sorted(answer.position for answer in stated) != list(range(len(share.numbers))):
            raise EngineError(f"{name}: a worker answers for other images than it was asked for; try again")
        skipped, found = self._skipped(share.numbers), {}
        for answer in stated:
            number = share.numbers[answer.position]
            if answer.unreadable is not None:
                item = self._task.items[number]
                there = answer.unreadable.partition(": ")[2] or answer.unreadable  # without the path that it has there
                skipped.add(answer.position, item, InputError(f"{item.name}: {there}"))
                continue
            width, height = answer.size_px
            self._task.check_image(number, np.broadcast_to(np.uint8(0), (height, width, 3)))
            try:
                found[number] = unpack_prediction(type(self._task), answer.prediction)
            except InputError as error:
                raise EngineError(f"{name}: a worker returned {error}") from error
        return found

    def _skipped(self, numbers: Sequence[int]) -> SkippedImages:
        return SkippedImages(SomeImages(self._task, numbers, 1.0))
