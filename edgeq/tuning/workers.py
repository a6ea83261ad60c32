"""Workers: processes on this machine, and who opens them."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgeq.errors import InputError
from edgeq.runtimes.child import NoAnswerError, RunnerProcess
from edgeq.tuning.executors import Executor, Found, WorkerLostError
from edgeq.tuning.work_units import Unit
from edgeq.wording import counted

T = TypeVar("T")

MOST_WORKERS = 1024

_SERVER = (sys.executable, "-m", "edgeq.tuning.workers_server")
_TIMEOUT_S = 600.0
_FILES_A_COMMAND = 200

_log = logging.getLogger(__name__)


class WorkerFacts(msgspec.Struct):
    """What a worker answers to `about`."""

    facts: dict[str, str]


class Predicted(msgspec.Struct):
    """What a worker answers to `predict`: the files that it misses, or what it found."""

    missing: list[str] = []
    found: list[dict[str, Any]] = []


class LocalWorker:
    """A process on this machine, which reads models and images where they lie.

    Args:
        name: How messages call it.
    """

    def __init__(self, name: str) -> None:
        self._process = RunnerProcess(name, _SERVER)

    @property
    def is_lost(self) -> bool:
        """Nobody knows before it is asked."""
        return False

    def facts(self, runtime: str) -> Mapping[str, str]:
        """Returns what decides what it predicts."""
        return self._ask_for(WorkerFacts, "about", runtime=runtime).facts

    def predict(self, unit: Unit) -> Found:
        """Returns what a file says about images; see `edgeq.tuning.executors.Worker`."""
        answer = self._ask_for(Predicted, **unit.command)
        if answer.missing:
            self._tell({digest: unit.files[digest] for digest in answer.missing})
            answer = self._ask_for(Predicted, **unit.command)
        return answer.found

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    def _tell(self, files: Mapping[str, Path]) -> None:
        paths = [(digest, str(path.absolute())) for digest, path in files.items()]
        for begin in range(0, len(paths), _FILES_A_COMMAND):
            self._ask_for(dict[str, Any], "know", files=dict(paths[begin : begin + _FILES_A_COMMAND]))

    def _ask_for(self, wanted: type[T], command: str, **fields: Any) -> T:
        try:
            return self._process.ask_for(wanted, _TIMEOUT_S, command, **fields)
        except (NoAnswerError, ValueError) as error:  # the latter by `close`, in another thread
            raise WorkerLostError(str(error)) from error


@contextlib.contextmanager
def executing(workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor | None]:
    """Yields who predicts images: local processes or a Dask cluster; `None` for this process alone.

    The end of the block ends local processes, whatever happened, and leaves a cluster as it was.

    Args:
        workers: Number of processes on this machine.
        scheduler: Address of the scheduler of a Dask cluster, as `tcp://host:8786`.

    Raises:
        InputError: both are given, the number is out of range, or the cluster cannot be reached.
        MissingDependencyError: Dask is not installed.
    """
    executor = _open(workers, scheduler)
    if executor is None:
        yield None
        return
    with executor:
        _log.info("images are predicted by %s", executor.description)
        yield executor


def _open(workers: int | None, scheduler: str | None) -> Executor | None:
    if scheduler is not None:
        from edgeq.tuning.workers_dask import DaskCluster

        if workers is not None:
            raise InputError("`workers` and `scheduler` are given; a cluster has its own workers, omit `workers`")
        return DaskCluster(scheduler)
    if workers is None:
        return None
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError(f"`workers` {workers}: wanted 1 to {MOST_WORKERS} processes")
    pool = Executor(counted(workers, "local process", "local processes"), restarts=True)
    for number in range(1, workers + 1):
        name = f"worker {number}"
        pool.add(name, functools.partial(LocalWorker, name))
    return pool
