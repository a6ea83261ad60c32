"""Searches whose workers, main process or Dask scheduler are killed: nothing may be lost or done twice."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import kept_result
from benchmarks.scaled_search import DASK, LOCAL, Ran, Scaled, children, is_alive, rows_of, workers_of
from edgeq.boundary import Plain, read_json

KILLED = "resnet20"
WORKERS = ((LOCAL, 2, 15), (LOCAL, 4, 9), (DASK, 4, 6))
"""Kinds of workers, how many there are, and how many of them are killed."""

MAIN_KILLS, SCHEDULER_KILLS = 10, 10
_CLUSTER = 2
"""Workers of the cluster whose scheduler is killed."""

_END_S = 20.0


def kills(scaled: Scaled, work: Path, arguments: Sequence[str]) -> list[str]:
    """Returns the table of the runs in which processes are killed; each line is measured once per folder.

    Args:
        scaled: The model, of the name `KILLED`.
        work: Folder for files.
        arguments: What `benchmarks.tune_scaling` finds the same model with.
    """
    alone = scaled.run(work / "alone.sqlite", None)
    lines = [
        "## Killed while it runs (SIGKILL): ResNet-20",
        "",
        "| killed | runs | seconds per run | same result, same store | predictions |",
        "|---|---:|---:|---:|---|",
    ]
    rows = [
        kept_result(
            work / f"kills {workers} {kind}.json", kill_workers, scaled, kind, workers, count, alone,
            work / f"kills {workers} {kind}.sqlite",
        )
        for kind, workers, count in WORKERS
    ]  # fmt: skip
    for victim, count in ((MainProcess, MAIN_KILLS), (DaskScheduler, SCHEDULER_KILLS)):
        store = work / f"kills {victim.__name__}.sqlite"
        rows.append(kept_result(store.with_suffix(".row.json"), strike, victim, count, scaled, alone, store, arguments))
    for row in rows:
        lines.append(f"| {row['killed']} | {row['runs']} | {row['seconds']:.0f} | {row['same']} | {row['rows']} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def kill_workers(scaled: Scaled, kind: str, workers: int, wanted: int, alone: Ran, store: Path) -> dict[str, Any]:
    """Returns what became of runs whose workers are killed, one whenever another unit of work is done."""
    killed: set[int] = set()
    runs, same, draw = 0, 0, random.Random(1)  # noqa: S311 - no secret
    seconds, given = 0.0, 0
    with workers_of(kind, workers) as (executor, pids):
        while len(killed) < wanted:
            ended = threading.Event()
            store.unlink(missing_ok=True)

            def kill(ended: threading.Event = ended) -> None:
                before = 0
                while not ended.wait(draw.uniform(0.1, 0.5)) and len(killed) < wanted:
                    with contextlib.suppress(OSError, IndexError, sqlite3.Error):
                        rows = len(rows_of(store))
                        alive = [pid for pid in pids() if pid not in killed]
                        if rows > before and len(alive) == workers:
                            chosen = draw.choice(alive)
                            os.kill(chosen, signal.SIGKILL)
                            killed.add(chosen)
                            before = rows

            killer = threading.Thread(target=kill)
            killer.start()
            try:
                ran = scaled.run(store, executor)
            finally:
                ended.set()
                killer.join()
            runs += 1
            seconds += ran.seconds
            given += ran.given
            same += ran.digest == alone.digest
    return {
        "killed": f"{len(killed)} of {workers} {kind}",
        "runs": runs,
        "seconds": seconds / runs,
        "same": f"{same} of {runs}",
        "rows": f"{given:,} given, {runs * len(alone.rows):,} wanted",
    }


class MainProcess:
    """A search with two local processes in a process that can be killed; it is started again to resume.

    Args:
        store: Where its trials are kept.
        arguments: What `benchmarks.tune_scaling` finds the model with.
    """

    title = "the main process, with 2 local processes"

    def __init__(self, store: Path, arguments: Sequence[str]) -> None:
        self.command = [sys.executable, "-m", "benchmarks.tune_scaling", *arguments, "--resume", str(store)]
        self.runs = 0
        self.process = self.started()

    def started(self) -> subprocess.Popen[bytes]:
        """Returns the process, started."""
        self.runs += 1
        return subprocess.Popen(self.command)

    def is_done(self) -> bool:
        """Returns whether the search has ended; one that could not go on is started again."""
        if self.process.poll():
            self.process = self.started()
        return self.process.poll() == 0

    def kill(self) -> int:
        """Kills it and starts it again; returns how many of its workers outlive it by 20 seconds."""
        workers = children("edgeq.tuning.workers_server", self.process.pid)
        self.process.kill()
        self.process.wait()
        until = time.monotonic() + _END_S
        while any(map(is_alive, workers)) and time.monotonic() < until:
            time.sleep(0.1)
        self.process = self.started()
        return sum(map(is_alive, workers))

    def close(self) -> None:
        """Leaves nothing behind."""
        self.process.kill()
        self.process.wait()


class DaskScheduler(MainProcess):
    """A search by the workers of a Dask cluster whose scheduler can be killed; a new one takes over its address."""

    title = f"Dask's scheduler and its {_CLUSTER} workers"

    def __init__(self, store: Path, arguments: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._address, self._port = f"tcp://127.0.0.1:{port}", str(port)
        self._folder = tempfile.TemporaryDirectory(prefix="edgeq-")
        self._cluster = self._new_cluster()
        super().__init__(store, [*arguments, "--scheduler", self._address])

    def kill(self) -> int:
        """Kills the scheduler with its workers and starts another cluster; returns 0, as nothing of it is edgeq's."""
        self._end_cluster()
        self._cluster = self._new_cluster()
        return 0

    def close(self) -> None:
        """Leaves nothing behind."""
        super().close()
        self._end_cluster()
        self._folder.cleanup()

    def _new_cluster(self) -> list[subprocess.Popen[bytes]]:
        """Returns the processes of a scheduler and its workers."""
        dask = [sys.executable, "-m", "distributed.cli"]
        scheduler = [f"{dask[-1]}.dask_scheduler", "--host", "127.0.0.1", "--port", self._port, "--no-dashboard"]
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", self._folder.name]
        worker = [f"{dask[-1]}.dask_worker", self._address, *options]
        commands = [scheduler, *[worker] * _CLUSTER]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        processes = [subprocess.Popen([*dask[:2], *command], **quiet) for command in commands]
        until = time.monotonic() + 10 * _END_S
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(self._port)), 1.0):
                break
            time.sleep(0.2)
        return processes

    def _end_cluster(self) -> None:
        for process in self._cluster:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Struck:
    """A search of which a process was killed.

    Attributes:
        killed: How often.
        runs: How often it was started.
        lost: Predictions that were there before a kill and not behind it.
        left_behind: Processes that outlived it.
        ran: What it found.
    """

    killed: int
    runs: int
    lost: int
    left_behind: int
    ran: Ran


def strike(
    kind: type[MainProcess], wanted: int, scaled: Scaled, alone: Ran, store: Path, arguments: Sequence[str]
) -> dict[str, Any]:
    """Returns what became of searches of which a process is killed again and again, until it was so often enough.

    A search that ends before that is followed by another one.
    """
    struck: list[Struck] = []
    while (killed := sum(each.killed for each in struck)) < wanted and len(struck) < wanted:
        struck.append(strike_once(kind, wanted - killed, scaled, len(alone.rows), store, arguments, seed=len(struck)))
    runs = sum(each.runs for each in struck)
    kept, lost = sum(len(each.ran.rows) for each in struck), sum(each.lost for each in struck)
    left = sum(each.left_behind for each in struck)
    return {
        "killed": f"{killed} of {kind.title}",
        "runs": runs,
        "seconds": sum(each.ran.seconds for each in struck) / runs,
        "same": f"{sum(each.ran.digest == alone.digest for each in struck)} of {len(struck)}",
        "rows": f"{kept:,} kept, {len(struck) * len(alone.rows):,} wanted; {lost} lost by a kill; "
        f"{left} processes left behind",
    }


def strike_once(
    kind: type[MainProcess],
    most: int,
    scaled: Scaled,
    wanted: int,
    store: Path,
    arguments: Sequence[str],
    seed: int,
) -> Struck:
    """Returns what became of one search, of which a process is killed up to `most` times.

    Args:
        kind: The process.
        most: Kills.
        scaled: The model.
        wanted: Predictions that a search makes which nobody kills.
        store: File for its trials, made anew.
        arguments: What `benchmarks.tune_scaling` finds the model with.
        seed: Of the moments of the kills.
    """
    result = store.with_suffix(".json")
    result.unlink(missing_ok=True)
    shutil.copyfile(scaled.screened, store)
    killed = left_behind = lost = 0
    step, draw, begun = wanted // (most + 2), random.Random(2 + seed), time.perf_counter()  # noqa: S311 - no secret
    before: list[Any] = []
    victim = kind(store, arguments)
    try:
        while not victim.is_done():
            time.sleep(0.1)
            if killed == most or len(rows_of(store)) < len(before) + step:
                continue
            time.sleep(draw.uniform(0, 1))
            left_behind += victim.kill()
            killed += 1
            after = rows_of(store)
            lost += len(set(before) - set(after))
            before = after
    finally:
        victim.close()
    found: dict[str, Any] = read_json(result, Plain, kind="a result of this benchmark")
    ran = Ran(time.perf_counter() - begun, found, rows_of(store), 0)
    return Struck(killed, victim.runs, lost, left_behind, ran)
