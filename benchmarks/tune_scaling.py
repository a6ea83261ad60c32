"""How does `edgeq tune` scale over workers, and does it lose anything if they, or it, are killed?

`python -m benchmarks.tune_scaling` scores every layer of ResNet-20 (CIFAR-10) and every block of the trained ViT
(Fashion-MNIST) on every image: in one process, by local processes, and by a Dask cluster. It then kills 30 workers and
5 times the main process, and simulates larger clusters from what the steps cost here. 30 minutes of two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.cluster_simulation import Costs, Simulation
from benchmarks.scaled_search import (
    RUNTIME,
    Ran,
    Scaled,
    capacity,
    children,
    cpu_seconds,
    is_alive,
    prepare,
    rows_of,
    workers_of,
)
from edgeq.boundary import Plain, read_json
from edgeq.evaluation.prediction_codec import encode_prediction
from edgeq.files import write_json
from edgeq.machine import read_machine
from edgeq.runtimes import open_session
from edgeq.tuning.journal import image_digests
from edgeq.tuning.paired import score_change
from edgeq.tuning.staged import StagedImages, draw_stages
from edgeq.tuning.store import Store, TrialKey
from edgeq.tuning.workers import executing

TITLES = {"resnet20": "ResNet-20, each layer", "vit": "ViT, each block"}
IMAGES = 32
ONE, LOCAL, DASK = "one process", "local processes", "Dask workers"
RUNS = {
    "resnet20": ((ONE, 1), (LOCAL, 2), (DASK, 2), (LOCAL, 1), (LOCAL, 4), (DASK, 1)),
    "vit": ((ONE, 1), (LOCAL, 2)),
}
"""Who predicts, of each model, the most important first."""

SIMULATED = (1, 2, 8, 64, 512)
MANY = ((2000, 2000),)
"""Trials, and images of each, of a large search."""

KILLS = ((LOCAL, 2, 15), (LOCAL, 4, 9), (LOCAL, 3, 6))
"""Kinds of workers, how many there are, and how many of them are killed."""

MAIN_KILLS = 5
GIGABIT = 117e6
"""Bytes that a network of 1 Gbit/s carries in a second."""


def run(name: str, scaled: Scaled, work: Path, runs: Sequence[tuple[str, int]]) -> list[str]:
    """Returns the section of a model.

    Args:
        name: Of `TITLES`.
        scaled: The model.
        work: Folder for files; what was measured in it before is not measured again.
        runs: Who predicts: kinds of workers, and how many.
    """
    lines = scaling(name, scaled, work, runs)
    costs = Costs(**kept_result(work / f"{name} costs.json", costs_of, scaled, work))
    return [*lines, *simulated(name, costs, scaled, timed(name, scaled, ONE, 1, work))]


def scaling(name: str, scaled: Scaled, work: Path, runs: Sequence[tuple[str, int]]) -> list[str]:
    """Returns the table of the runs with more and more workers."""
    lines = [
        f"## {TITLES[name]}: {scaled.trials} files, each on {scaled.images} images",
        "",
        "| who predicts | seconds | trials per minute | speed-up over one process | as many plain loops get | CPU "
        "seconds of all processes | load average | same result, same store |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    alone = timed(name, scaled, ONE, 1, work)
    for kind, count in runs:
        ran = timed(name, scaled, kind, count, work)
        title = kind if kind == ONE else f"{count} {kind}"
        lines.append(
            f"| {title} | {ran['seconds']:.1f} | {60 * scaled.trials / ran['seconds']:.0f} | "
            f"{alone['seconds'] / ran['seconds']:.2f}x | {ran['available']:.2f}x | {ran['cpu_s']:.0f} | "
            f"{ran['load']:.0f} | {'yes' if ran['digest'] == alone['digest'] else 'NO'} |"
        )
        print(lines[-1], flush=True)
    return [*lines, ""]


def timed(name: str, scaled: Scaled, kind: str, count: int, work: Path) -> dict[str, Any]:
    """Returns what a run took and found; it is measured once per folder."""

    def measure() -> dict[str, Any]:
        available, used = capacity(count, own_sessions=kind == LOCAL), cpu_seconds()
        with workers_of(kind, count) as (executor, _):
            ran = scaled.run(work / f"{name} scaling.sqlite", executor)
        load = os.getloadavg()[0]
        used = cpu_seconds() - used
        return {"seconds": ran.seconds, "available": available, "cpu_s": used, "load": load, "digest": ran.digest}

    return kept_result(work / f"{name} {scaled.images} {count} {kind}.json", measure)


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


def kill_main(arguments: argparse.Namespace, scaled: Scaled, alone: Ran, store: Path) -> dict[str, Any]:
    """Returns what became of a run whose main process is killed again and again and then started again."""
    result = store.with_suffix(".json")
    result.unlink(missing_ok=True)
    shutil.copyfile(scaled.screened, store)
    command = [
        sys.executable, "-m", "benchmarks.tune_scaling", "resnet20", "--data", str(arguments.data), "--work",
        str(arguments.work), "--images", str(arguments.images), "--scored", str(arguments.scored), "--resume",
        str(store),
    ]  # fmt: skip
    kills = left_behind = lost = 0
    step, draw, begun = len(alone.rows) // (MAIN_KILLS + 2), random.Random(2), time.perf_counter()  # noqa: S311
    before: list[Any] = []
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(0.1)
        if kills == MAIN_KILLS or len(rows_of(store)) < len(before) + step:
            continue
        time.sleep(draw.uniform(0, 1))
        workers = children("edgeq.tuning.workers_server", process.pid)
        process.kill()
        process.wait()
        kills += 1
        until = time.monotonic() + 20
        while any(map(is_alive, workers)) and time.monotonic() < until:
            time.sleep(0.1)
        left_behind += sum(map(is_alive, workers))
        after = rows_of(store)
        lost += len(set(before) - set(after))
        before = after
        process = subprocess.Popen(command)
    found: dict[str, Any] = read_json(result, Plain, kind="a result of this benchmark")
    resumed = Ran(time.perf_counter() - begun, found, rows_of(store), 0)
    return {
        "killed": f"{kills} of the main process, with 2 local processes",
        "runs": kills + 1,
        "seconds": resumed.seconds / (kills + 1),
        "same": f"{int(resumed.digest == alone.digest)} of 1",
        "rows": f"{len(resumed.rows):,} kept, {len(alone.rows):,} wanted; {lost} lost by a kill; {left_behind} "
        "processes left behind",
    }


def costs_of(scaled: Scaled, work: Path) -> dict[str, Any]:
    """Returns what each step costs in CPU time, which depends little on other jobs: the median of a few."""
    case, subject = scaled.case, scaled.case.subject
    stages = draw_stages(len(case.task.items), scaled.images, 0)
    images = StagedImages(case.task, stages, RUNTIME, 1)
    writes, opens, takes, singles = [], [], [], []
    for number in range(5):
        begun = time.process_time()
        file = subject.write(subject.of_groups(subject.groups[: 1 + number]), work / f"cost {number}")
        writes.append(time.process_time() - begun)
        begun = time.process_time()
        with open_session(file, RUNTIME, 1, "f32"):
            pass
        opens.append(time.process_time() - begun)
        images.predict(file, 0)
        begun = time.process_time()
        found = images.predict(file, 0)
        singles.append((time.process_time() - begun - opens[-1]) / len(found))
        digests = image_digests([case.task.items[position] for position in found])
        begun = time.process_time()
        with Store(work / "cost.sqlite") as store:
            trial = store.trial(TrialKey("m", str(number), "d", "e", "m"), {})
            packed = [encode_prediction(type(case.task), each) for each in found.values()]
            store.add_predictions(trial, dict(zip(digests, packed, strict=True)))
        records = case.task.per_image(file, found, {})
        score_change(records, records, case.task.score_type, 0.5)
        takes.append(time.process_time() - begun)
    (work / "cost.sqlite").unlink()
    middle = [sorted(each)[2] for each in (writes, takes, opens, singles)]
    one = case.task.items[0]
    costs = Costs(
        middle[0], middle[1], middle[2], max(middle[3], 1e-5), file.size_bytes, Path(one.name).stat().st_size, GIGABIT
    )
    return dataclasses.asdict(costs)


def simulated(name: str, costs: Costs, scaled: Scaled, alone: Mapping[str, Any]) -> list[str]:
    """Returns the table of larger clusters, for the trials of this model and for many more; `alone` is one process."""
    own = [len(stage) for stage in draw_stages(scaled.images, None, 0)]
    checked = Simulation(costs, scaled.trials, own, 1).run()
    lines = [
        f"## Simulated: {TITLES[name]}",
        "",
        f"Steps, measured in CPU time: write a file {1e3 * costs.write_s:.0f} ms, take the answers of a stage "
        f"{1e3 * costs.take_s:.1f} ms, open a file {1e3 * costs.open_s:.0f} ms, an image {1e3 * costs.image_s:.2f} ms. "
        f"A file has {costs.file_bytes / 1e6:.1f} MB, an image {costs.image_bytes / 1e3:.1f} kB; a network of 1 Gbit/s "
        "between the main process and all workers is assumed. As a check: the run above took one process "
        f"{alone['cpu_s']:.0f} CPU seconds; simulated, the main process and one worker compute "
        f"{checked.main_s + checked.workers_s - checked.sending_s:.0f} s.",
        "",
        "| trials and images | workers | seconds | trials per minute | share of perfect scaling | main process busy | "
        "network busy |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for count, images in ((scaled.trials, scaled.images), *MANY):
        stages = [len(stage) for stage in draw_stages(images, None, 0)]
        one = Simulation(costs, count, stages, 1).run().seconds
        for workers in SIMULATED:
            found = Simulation(costs, count, stages, workers).run()
            lines.append(
                f"| {count:,} trials, {images:,} images | {workers} | {found.seconds:,.0f} | "
                f"{60 * count / found.seconds:,.0f} | {one / found.seconds / workers:.0%} | "
                f"{found.main_s / found.seconds:.0%} | {found.sending_s / found.seconds:.0%} |"
            )
    return [*lines, ""]


def make_parser() -> argparse.ArgumentParser:
    parser = subjects_parser(__doc__, TITLES, TITLES, 64, Path("tune_scaling"))
    parser.add_argument("--scored", type=int, default=IMAGES, help="images that each trial is scored on")
    parser.add_argument("--resume", type=Path, help="only score the first model into this store, with two processes")
    return parser


def main() -> None:
    parser = make_parser()
    arguments = read_subjects(parser, TITLES)
    work: Path = arguments.work
    cases = {name: prepare(name, arguments.data, work, arguments.images, arguments.scored) for name in arguments.names}
    if arguments.resume is not None:
        with executing(workers=2) as executor:
            ran = next(iter(cases.values())).run(arguments.resume, executor, resume=True)
        write_json(arguments.resume.with_suffix(".json"), ran.found)
        return
    lines = ["# `edgeq tune` on several workers", ""]
    for name, scaled in cases.items():
        lines += run(name, scaled, work, RUNS[name])
    lines += kills(arguments, next(iter(cases.values())), work)
    lines.append(provenance())
    write_result(arguments.out, "tune_scaling.md", "\n".join(lines) + "\n")


def kills(arguments: argparse.Namespace, scaled: Scaled, work: Path) -> list[str]:
    """Returns the table of the runs in which processes are killed; each line is measured once per folder."""
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
        for kind, workers, count in KILLS
    ]  # fmt: skip
    rows.append(kept_result(work / "kills main.json", kill_main, arguments, scaled, alone, work / "kills.sqlite"))
    lines += [
        f"| {row['killed']} | {row['runs']} | {row['seconds']:.0f} | {row['same']} | {row['rows']} |" for row in rows
    ]
    return [*lines, ""]


def provenance() -> str:
    """Returns what the figures were measured with."""
    import distributed
    import openvino

    machine = read_machine()
    return (
        f"Measured in OpenVINO {openvino.__version__}, Dask {distributed.__version__}, on {machine.usable_cpus} cores "
        f"of {cpu_and_threads(machine, 1)} a worker, which many other jobs used at the same time: see the load "
        "average. The column of plain loops says what the machine had to give just before; its distance from 1.00x "
        "for one process is how much that varies. The screening was done before; the start of the workers counts. A "
        "trial is a file on all images. A worker is killed whenever another unit of work is done. "
        "Simulated: a simulation of events from CPU times measured here, as if each process had a core; nothing "
        "of it was run."
    )


if __name__ == "__main__":
    main()
