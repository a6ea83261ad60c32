"""Images in stages: trials are scored on a few images first, and on more only as long as that may change a decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import InputError
from edgeq.evaluation.evaluate import make_job
from edgeq.evaluation.inference import SomeImages, predict
from edgeq.exporting.artifact import Artifact
from edgeq.inputs import InputCache, evenly_spaced
from edgeq.progress import Silent, reporting_to
from edgeq.tasks import Task
from edgeq.tuning.distributed_images import DistributedImages
from edgeq.tuning.executors import Executor
from edgeq.tuning.machine_lock import shared_machine

FIRST = 32
"""Images of the first stage; each further one doubles what was scored so far."""

_CACHE_BYTES = 1 << 30


def draw_stages(available: int, most: int | None, seed: int) -> list[list[int]]:
    """Returns the positions of the images of each stage, in an order that is drawn: data sets are sorted by class.

    Args:
        available: Images of the data set.
        most: The most to take, evenly spaced; by default all.
        seed: Of the order.
    """
    numbers = evenly_spaced(range(available), most or available)
    drawn = [numbers[index] for index in np.random.default_rng(seed).permutation(len(numbers))]
    stages, begin = [], 0
    while begin < len(drawn):
        end = 2 * begin or FIRST
        stages.append(sorted(drawn[begin:end]))
        begin = end
    return stages


class StagedImages:
    """The images of a task, to be predicted stage by stage; their inputs are kept for the next trial.

    Args:
        task: The task.
        stages: Positions of the images of each stage.
        runtime: The runtime that trials run in.
        threads: CPU threads of the engine.
        executor: Who predicts them; by default this process.
    """

    def __init__(
        self,
        task: Task[Any],
        stages: Sequence[Sequence[int]],
        runtime: str,
        threads: int | None,
        executor: Executor | None = None,
    ) -> None:
        self._task = task
        self.stages = stages
        self._runtime = runtime
        self._threads = threads
        total = sum(map(len, stages))
        self._caches = [InputCache(_CACHE_BYTES * len(stage) // total) for stage in stages]
        self._elsewhere: DistributedImages | None = None
        if executor is not None:
            self._elsewhere = DistributedImages(task, runtime, threads, compute_precision(runtime), executor)

    @property
    def side_by_side(self) -> int:
        """How many trials are worth predicting at the same time."""
        return 1 if self._elsewhere is None else max(1, 2 * self._elsewhere.workers)

    def predict(self, artifact: Artifact, stage: int) -> dict[int, Any]:
        """Returns position of an image -> what a file says about it, for the images of a stage that can be read."""
        if self._elsewhere is not None:
            ((_, found),) = self.predict_many([(artifact, stage)])
            return found
        numbers = self.stages[stage]
        job = make_job(artifact, self._runtime, compute_precision(self._runtime))
        with reporting_to(Silent):
            predict([job], SomeImages(self._task, numbers, 1.0), self._threads, self._caches[stage], shared_machine)
        return {numbers[position]: each for position, each in sorted(job.predictions.items())}

    def predict_many(self, work: Sequence[tuple[Artifact, int]]) -> Iterator[tuple[int, dict[int, Any]]]:
        """Yields (index of a piece of work, what `predict` returns of it) as each is done.

        Args:
            work: Files and stages. They are asked for one by one, shortly before they are needed, and a file may go
                once it was yielded.

        Raises:
            EdgeqError: a file cannot be run, or no worker is left.
        """
        if self._elsewhere is None:
            for index in range(len(work)):
                yield index, self.predict(*work[index])
        else:
            yield from self._elsewhere.predict(work, self.stages)

    def require_readable(self, predictions: Mapping[int, Any]) -> None:
        """Checks that not too many of all images were skipped.

        Raises:
            InputError: more than the task allows.
        """
        require_readable(self._task, sum(map(len, self.stages)), predictions)


def require_readable(task: Task[Any], total: int, predictions: Mapping[int, Any]) -> None:
    """Checks that not too many images were skipped.

    Args:
        task: The task.
        total: How many images were to be predicted.
        predictions: Those that were.

    Raises:
        InputError: more were skipped than the task allows.
    """
    unreadable = total - len(predictions)
    if unreadable > task.max_unreadable * total:
        raise InputError(
            f"{task.source}: {unreadable} of {total} images cannot be read, more than {task.max_unreadable:.0%}"
        )


def compute_precision(runtime: str) -> str | None:
    """Returns what float layers of trials are computed in: f32, so that BF16 is not taken for a loss of INT8."""
    return "f32" if runtime == "openvino" else None
