"""How does `edgeq tune` scale over workers, and does it lose anything if they, or it, are killed?

`python -m benchmarks.tune_scaling` scores every layer of ResNet-20 (CIFAR-10) and every block of the trained ViT
(Fashion-MNIST) on every image: in one process, by local processes, and by a Dask cluster, and simulates larger clusters
from what the steps cost here. `python -m benchmarks.tune_scaling kills` only kills workers, the main process and Dask's
scheduler. What was measured is kept in `--work`. 10 minutes of two cores, if nothing else runs on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import cpu_and_threads, kept_result, read_subjects, subjects_parser, write_result
from benchmarks.cluster_simulation import Costs, Simulation
from benchmarks.killed_search import KILLED, kills
from benchmarks.scaled_search import (
    DASK,
    LOCAL,
    ONE,
    RUNTIME,
    Scaled,
    capacity,
    cpu_seconds,
    prepare,
    workers_of,
)
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
RUNS = {
    "resnet20": ((ONE, 1), (LOCAL, 2), (DASK, 2), (LOCAL, 1), (LOCAL, 4), (DASK, 1), (DASK, 4)),
    "vit": ((ONE, 1), (LOCAL, 2)),
}
"""Who predicts, of each model, the most important first."""

SIMULATED = (1, 2, 8, 64, 512)
MANY = ((2000, 2000),)
"""Trials, and images of each, of a large search."""

KILLS = "kills"
PARTS = (*TITLES, KILLS)
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
    parser = subjects_parser(__doc__, PARTS, PARTS, 64, Path("tune_scaling"))
    parser.add_argument("--scored", type=int, default=IMAGES, help="images that each trial is scored on")
    parser.add_argument("--resume", type=Path, help="only score the first model into this store, with two processes")
    parser.add_argument("--scheduler", help="with --resume: by the workers of this Dask cluster instead")
    return parser


def main() -> None:
    arguments = read_subjects(make_parser(), PARTS)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)

    def prepared(name: str) -> Scaled:
        return prepare(name, arguments.data, work, arguments.images, arguments.scored)

    if arguments.resume is not None:
        workers = 2 if arguments.scheduler is None else None
        with executing(workers, arguments.scheduler) as executor:
            ran = prepared(KILLED).run(arguments.resume, executor, resume=True)
        write_json(arguments.resume.with_suffix(".json"), ran.found)
        return
    sections = {name: work / f"{name} section.json" for name in PARTS}
    for name in arguments.names:
        if name == KILLS:
            options = ["--data", arguments.data, "--images", arguments.images, "--scored", arguments.scored]
            lines = kills(prepared(KILLED), work, [KILLED, *map(str, options), "--work", str(work)])
        else:
            lines = run(name, prepared(name), work, RUNS[name])
        write_json(sections[name], {"lines": lines})
    found = [kept_result(path, dict)["lines"] for path in sections.values() if path.is_file()]
    lines = ["# `edgeq tune` on several workers", "", *(line for each in found for line in each), provenance()]
    write_result(arguments.out, "tune_scaling.md", "\n".join(lines) + "\n")


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
