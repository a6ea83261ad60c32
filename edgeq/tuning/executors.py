"""Work on many workers: each takes the next unit when it is free, and what a worker loses goes to another one.

Each worker has a thread here that waits for it. Workers are local processes (`edgeq.tuning.workers`) or those of a Dask
cluster (`edgeq.tuning.workers_dask`). A worker takes units of files that it has before others, so that a file travels
to as few workers as possible. An answer depends only on its unit, so that it does not matter who gives it, in
which order, or how often: the first one counts.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from edgeq.errors import EdgeqError, EngineError, MismatchError
from edgeq.tuning.machine_lock import Waiting
from edgeq.tuning.work_units import Unit
from edgeq.tuning.workers_server import worker_facts

Found = list[dict[str, Any]]
"""What a worker says of the images of a unit, see `edgeq.tuning.workers_server`."""

_MOST_LOSSES = 5
"""Workers that a unit may cost before it is blamed."""

_MOST_STARTS = 3
_LATE_S = 10.0
"""A unit is late if it takes this long, and `_LATE_FACTOR` times as long as others of as many images."""

_LATE_FACTOR = 4.0
_TICK_S = 0.5

_log = logging.getLogger(__name__)


class WorkerLostError(EngineError):
    """A worker ended, or does not answer any more; another one can do its work."""


class Worker(Protocol):
    """A process elsewhere that predicts images. One thread at a time uses it, but for `close` and `is_lost`."""

    @property
    def is_lost(self) -> bool:
        """Whether it is known to be gone while it has nothing to do."""

    def facts(self, runtime: str) -> Mapping[str, str]:
        """Returns its `edgeq.tuning.workers_server.worker_facts`."""

    def predict(self, unit: Unit) -> Found:
        """Returns what a file says about images.

        Raises:
            WorkerLostError: the worker is gone.
            EdgeqError: the work cannot be done, by no worker.
        """

    def close(self) -> None:
        """Leaves nothing of it behind; who waits for its answer gets a `WorkerLostError`."""


OpenWorker = Callable[[], Worker]
"""Starts a worker, or takes hold of it; raises `WorkerLostError` if it is gone."""


@dataclass(eq=False)
class _Task:
    """A unit, and what became of it so far."""

    number: int
    unit: Unit
    done: queue.SimpleQueue[tuple[int, Found | BaseException]]
    losses: int = 0
    copies: int = 0
    begun_s: float = 0.0
    is_done: bool = False

    @property
    def digest(self) -> str:
        """Of its file."""
        return self.unit.artifact.digest


@dataclass
class _Pace:
    """How long units take that are done."""

    seconds: float = 0.0
    images: int = 0

    def is_late(self, task: _Task) -> bool:
        expected = self.seconds / self.images * len(task.unit.images) if self.images else float("inf")
        return time.monotonic() - task.begun_s > max(_LATE_S, _LATE_FACTOR * expected)


@dataclass
class _State:
    """What the threads share, under the lock of `changed`.

    `owners` are the workers that were last given a file, by its digest.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    waiting: collections.deque[_Task] = field(default_factory=collections.deque)
    running: list[_Task] = field(default_factory=list)
    pace: _Pace = field(default_factory=_Pace)
    workers: dict[int, Worker | None] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    last_words: str = "there was none"
    closed: bool = False

    def take_waiting(self, number: int) -> _Task:
        """Returns the unit that a worker does next: of a file that it has, or else of one that no worker has."""
        owners = [self.owners.get(task.digest) for task in self.waiting]
        best = min(range(len(owners)), key=lambda index: (owners[index] != number, owners[index] in self.workers))
        task = self.waiting[best]
        del self.waiting[best]
        return task


class Executor:
    """Workers, and the work that waits for them. A context manager: its end is the end of local workers.

    Args:
        description: Says in words who works.
        grace_s: How long to wait for another worker when the last one is gone.
        restarts: Whether a worker that is lost is opened again.

    Attributes:
        description: Says in words who works.
    """

    def __init__(self, description: str, *, grace_s: float = 0.0, restarts: bool = False) -> None:
        self.description = description
        self._grace_s = grace_s
        self._restarts = restarts
        self._state = _State()
        self._threads: list[threading.Thread] = []
        self._wanted: dict[str, Mapping[str, str]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="edgeq-")

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """A folder for files that workers are to get; it goes with the executor."""
        return Path(self._folder.name)

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return len(self._state.workers)

    def add(self, name: str, open_worker: OpenWorker) -> None:
        """Adds a worker and starts it.

        Args:
            name: How messages call it.
            open_worker: Opens it, in a thread of its own.
        """
        number = len(self._threads)
        with self._state.changed:
            self._state.workers[number] = None
        thread = threading.Thread(target=self._serve, args=(number, name, open_worker), daemon=True)
        self._threads.append(thread)
        thread.start()

    def map(self, units: Iterator[Unit]) -> Iterator[tuple[int, Found]]:
        """Yields (number of a unit, what a worker says of its images) as each is done.

        Args:
            units: The work; the next one is asked for shortly before a worker needs it.

        Raises:
            EngineError: no worker is left, or a unit ends every worker that takes it.
            EdgeqError: a unit cannot be done.
        """
        done: queue.SimpleQueue[tuple[int, Found | BaseException]] = queue.SimpleQueue()
        given: list[_Task] = []
        finished, seen_s, more, waiting = 0, time.monotonic(), True, Waiting()
        try:
            while True:
                while more and len(self._state.waiting) < self.workers:
                    unit = next(units, None)
                    more = unit is not None
                    if unit is not None:
                        given.append(_Task(len(given), unit, done))
                        self._give(given[-1])
                if finished == len(given) and not more:
                    return
                if self.workers:
                    seen_s = time.monotonic()
                elif time.monotonic() - seen_s >= self._grace_s and done.empty():
                    raise EngineError(
                        f"no worker is left ({self._state.last_words}); start workers and rerun the command to resume"
                    )
                try:
                    number, outcome = done.get(timeout=_TICK_S)
                except queue.Empty:
                    waiting.look()  # workers on this machine may wait for somebody who has it alone
                    if waiting.holders:
                        waiting.require_time()
                    continue
                waiting = Waiting()
                if isinstance(outcome, BaseException):
                    raise outcome
                finished += 1
                yield number, outcome
        finally:
            with self._state.changed:
                self._state.waiting.clear()
                for task in given:
                    task.is_done = True

    def close(self) -> None:
        """Ends all work and all local workers."""
        with self._state.changed:
            self._state.closed = True
            self._state.waiting.clear()
            self._state.changed.notify_all()
            workers = [worker for worker in self._state.workers.values() if worker is not None]
        for worker in workers:
            worker.close()
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()

    def _give(self, task: _Task) -> None:
        runtime = task.unit.runtime
        if runtime not in self._wanted:
            self._wanted[runtime] = worker_facts(runtime)
        with self._state.changed:
            self._state.waiting.append(task)
            self._state.changed.notify()

    # In the threads of the workers ----------------------------------------------------------------------------------

    def _serve(self, number: int, name: str, open_worker: OpenWorker) -> None:
        """Has a worker work until it is lost or refused, or all work ends."""
        state, failures = self._state, 0
        try:
            while failures < _MOST_STARTS and not state.closed:
                try:
                    with contextlib.closing(open_worker()) as worker:
                        self._note(number, worker)
                        failures = 0
                        self._work(number, name, worker)
                except WorkerLostError as error:
                    failures += 1
                    state.last_words = str(error)
                    if not state.closed:
                        _log.warning("%s; another worker takes its work", error)
                    if not self._restarts:
                        break
                except EdgeqError as error:  # refused
                    state.last_words = str(error)
                    _log.warning("%s", error)
                    break
        finally:
            with state.changed:
                del state.workers[number]

    def _note(self, number: int, worker: Worker) -> None:
        with self._state.changed:
            if self._state.closed:  # `close` did not see this worker
                raise WorkerLostError("all work has ended")
            self._state.workers[number] = worker

    def _work(self, number: int, name: str, worker: Worker) -> None:
        """Has a worker do one unit after the other.

        Raises:
            WorkerLostError: the worker is lost.
            EdgeqError: it is refused.
        """
        known: set[str] = set()
        while (task := self._next(number, name, worker)) is not None:
            runtime, begun = task.unit.runtime, time.monotonic()
            outcome: Found | BaseException
            try:
                if runtime not in known:
                    self._require_alike(name, worker.facts(runtime), runtime)
                    known.add(runtime)
                outcome = worker.predict(task.unit)
            except WorkerLostError as error:
                task.losses += 1
                self._give_back(task, error)
                raise
            except Exception as error:
                if runtime not in known:
                    self._give_back(task, error)
                    raise
                outcome = error
            with self._state.changed:
                self._state.running.remove(task)
                if not task.is_done:
                    self._state.pace.seconds += time.monotonic() - begun
                    self._state.pace.images += len(task.unit.images)
                    _finish(task, outcome)

    def _require_alike(self, name: str, found: Mapping[str, str], runtime: str) -> None:
        """Refuses a worker that might predict something else.

        Raises:
            MismatchError: it has another version of something, or another CPU.
        """
        for fact, wanted in self._wanted[runtime].items():
            if found.get(fact) != wanted:
                raise MismatchError(
                    f"{name} is left out, its results might differ: its {fact} is {found.get(fact, 'unknown')}, wanted "
                    f"{wanted} as here; install the same there"
                )

    def _next(self, number: int, name: str, worker: Worker) -> _Task | None:
        """Returns a unit to do, which may be one that another worker is late with; `None` at the end.

        Raises:
            WorkerLostError: the worker is gone in the meantime.
        """
        state = self._state
        with state.changed:
            while not state.closed:
                if worker.is_lost:
                    raise WorkerLostError(f"{name}: is gone")
                late = (each for each in state.running if each.copies == 1 and not each.is_done)
                late = (each for each in late if state.pace.is_late(each))
                task = state.take_waiting(number) if state.waiting else next(late, None)
                if task is not None:
                    task.begun_s = time.monotonic() if task.copies == 0 else task.begun_s
                    task.copies += 1
                    state.owners[task.digest] = number
                    state.running.append(task)
                    return task
                state.changed.wait(_TICK_S)
        return None

    def _give_back(self, task: _Task, error: Exception) -> None:
        """Puts a unit back that a worker has not done, before all others, unless somebody else has it."""
        with self._state.changed:
            self._state.running.remove(task)
            task.copies -= 1
            if self._state.closed or task.is_done or task.copies:
                return
            if task.losses >= _MOST_LOSSES:
                name = task.unit.artifact.name
                failure = f"{name}: {task.losses} workers ended while they ran it, the last one: {error}"
                _finish(task, EngineError(failure))
                return
            self._state.waiting.appendleft(task)
            self._state.changed.notify()


def _finish(task: _Task, outcome: Found | BaseException) -> None:
    task.is_done = True
    task.done.put((task.number, outcome))
