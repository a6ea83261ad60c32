"""Scoring every layer of a real model on every image, in one process or by workers: what is measured, and of what."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.sensitivity import SCREENED, Case, open_case
from edgeq.files import sha256_json
from edgeq.results.serialization import to_json
from edgeq.tuning.executors import Executor
from edgeq.tuning.groups import By
from edgeq.tuning.sensitivity import SensitivityOptions, measure_sensitivity
from edgeq.tuning.store import Store
from edgeq.tuning.workers import executing

SIDES: dict[str, By] = {"resnet20": "layer", "vit": "block"}
RUNTIME = "openvino"
ONE, LOCAL, DASK = "one process", "local processes", "Dask workers"
"""Who predicts."""


class Ran(NamedTuple):
    """A run: what it took in seconds, what it found, what its store holds, and how many predictions it was given."""

    seconds: float
    found: dict[str, Any]
    rows: list[Any]
    given: int

    @property
    def digest(self) -> str:
        """Identifies what it has found and kept, bit for bit."""
        return sha256_json([self.found, [[plan, image, content.hex()] for plan, image, content in self.rows]])


class CountingStore(Store):
    """Counts the predictions that it is given; a second one of the same image would count, too."""

    given = 0

    def add_predictions(self, trial: int, predictions: Mapping[str, Any]) -> None:
        """Keeps them."""
        self.given += len(predictions)
        super().add_predictions(trial, predictions)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A model whose layers or blocks are scored, all on all images; the screening is done and in a store."""

    case: Case
    screened: Path
    images: int

    @property
    def trials(self) -> int:
        """How many files are scored."""
        return 2 * (len(self.case.subject.groups) + 1)

    @property
    def options(self) -> SensitivityOptions:
        """Every trial on every image."""
        return SensitivityOptions(images=self.images, runtime=RUNTIME, threads=1, thorough=True)

    def run(self, store: Path, executor: Executor | None, *, resume: bool = False) -> Ran:
        """Scores everything, into a new store unless it is to resume."""
        if not resume:
            shutil.copyfile(self.screened, store)
        begun = time.perf_counter()
        counting = CountingStore(store)
        with counting:
            inputs = self.case.inputs(SCREENED)
            found = measure_sensitivity(self.case.subject, self.case.task, inputs, self.options, counting, executor)
        return Ran(time.perf_counter() - begun, to_json(found), rows_of(store), counting.given)


def rows_of(store: Path) -> list[Any]:
    """Returns the predictions in a store: plan, image, prediction."""
    with contextlib.closing(sqlite3.connect(store)) as connection:
        query = (
            "SELECT hex(plan), hex(images.digest), content FROM predictions "
            "JOIN trials ON trials.id = predictions.id >> 32 "
            "JOIN images ON images.id = predictions.id & 4294967295 ORDER BY plan, images.digest"
        )
        return connection.execute(query).fetchall()


def screened(case: Case, folder: Path, images: int) -> Scaled:
    """Returns a model that is screened; the store of that is kept in a folder."""
    scaled = Scaled(case, folder / f"screened {images}.sqlite", images)
    if not scaled.screened.is_file():
        store = folder / "screening.sqlite"
        with Store(store) as opened:
            options = dataclasses.replace(scaled.options, thorough=False, matters=100.0)
            measure_sensitivity(case.subject, case.task, case.inputs(SCREENED), options, opened)
        with contextlib.closing(sqlite3.connect(store)) as connection:
            connection.execute("DELETE FROM predictions")
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.replace(scaled.screened)
    return scaled


def prepare(name: str, data: Path, work: Path, calibration: int, images: int) -> Scaled:
    """Returns a model, calibrated and screened; both is kept in a folder."""
    folder = work / name
    if not list(folder.glob("*.ranges.json")):
        open_case(name, data, folder, calibration)
    (ranges,) = folder.glob("*.ranges.json")
    case = open_case(name, data, folder, calibration, ranges_file=ranges)
    subject = dataclasses.replace(case.subject, by=SIDES[name])
    return screened(dataclasses.replace(case, subject=subject), folder, images)


@contextlib.contextmanager
def workers_of(kind: str, count: int) -> Iterator[tuple[Executor | None, Callable[[], list[int]]]]:
    """Yields an executor and a function that returns the process ids of its workers."""
    if kind == ONE:
        yield None, list
    elif kind == LOCAL:
        with executing(workers=count) as executor:
            yield executor, lambda: children("edgeq.tuning.workers_server")
    else:
        from distributed import LocalCluster

        options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
        with (
            LocalCluster(n_workers=count, **options) as cluster,
            executing(scheduler=cluster.scheduler_address) as executor,
        ):
            # A nanny whose worker is killed before it has joined gives up.
            yield (
                executor,
                lambda: [
                    nanny.pid for nanny in cluster.workers.values() if nanny.worker_address in cluster.scheduler.workers
                ],
            )


def is_alive(pid: int) -> bool:
    """Returns whether a process runs."""
    with contextlib.suppress(OSError):
        return not (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].startswith("Z")
    return False


def children(word: str, parent: int | None = None) -> list[int]:
    """Returns the child processes of a process, by default this one, whose command line has a word."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, fields = int(folder.name), (folder / "stat").read_text().rpartition(") ")[2].split()
            is_child = int(fields[1]) == (parent or os.getpid()) and fields[0] != "Z"
            if is_child and word in (folder / "cmdline").read_text():
                found.append(pid)
    return found


SPIN_S = 1.5
_SPIN = """
import sys, time
count, until = 0, time.perf_counter() + float(sys.argv[1])
while time.perf_counter() < until:
    count += 1
print(count)
"""


def capacity(processes: int, *, own_sessions: bool) -> float:
    """Returns how many times as much several plain loops do at the same time as one: what this machine has to give.

    Args:
        processes: How many loops.
        own_sessions: Whether each has a session of its own, as local workers do: Linux shares cores among sessions.
    """

    def counts(number: int) -> int:
        command = [sys.executable, "-c", _SPIN, str(SPIN_S)]
        started = [
            subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=own_sessions) for _ in range(number)
        ]
        return sum(int(each.communicate()[0]) for each in started)

    return counts(processes) / counts(1)


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of those of its children that have ended, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
