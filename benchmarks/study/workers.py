"""What several workers save: the time of the same trials with one worker and with more, in turns."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import code_state
from benchmarks.study.cases import Case
from edgeq.datasets import open_split
from edgeq.machine import read_machine
from edgeq.studying.space import Space
from edgeq.tuning.executors import Executor
from edgeq.tuning.workers import executing
from edgeq.verbs.study import OpenedStudy, StudyOptions, open_study
from edgeq.verbs.study_bundle import BundleSubject, open_bundle_study

ROUNDS = 3
"""How often one worker and several take turns."""

Open = Callable[[Path, Executor | None], AbstractContextManager[OpenedStudy]]


@dataclass(frozen=True)
class Scaled:
    """The time of the trials of a study.

    Attributes:
        title: The study.
        workers: How many workers there were.
        trials: Its trials.
        images: Images of each.
        alone_s: Wall time with one worker, of each round.
        together_s: Wall time with all of them, of each round.
        load: Load average of the machine before each round, over a minute.
        alike: Whether all scores and all draws of the bootstrap are the same, bit for bit.
    """

    title: str
    workers: int
    trials: int
    images: int
    alone_s: tuple[float, ...]
    together_s: tuple[float, ...]
    load: tuple[float, ...]
    alike: bool

    @property
    def ratio(self) -> float:
        """How many times as fast several workers are, the median over the rounds."""
        return statistics.median(one / more for one, more in zip(self.alone_s, self.together_s, strict=True))


def vit_scaled(case: Case, space: Space, options: StudyOptions, workers: int) -> Scaled:
    """Returns what workers save for a model in one file."""

    def opened(folder: Path, executor: Executor | None) -> AbstractContextManager[OpenedStudy]:
        data = open_split(case.labels, "evaluation")
        return open_study(case.request, data, case.source, space, folder, options=options, executor=executor)

    return scaled(case.title, opened, workers)


def reader_scaled(subject: BundleSubject, space: Space, options: StudyOptions, workers: int) -> Scaled:
    """Returns what workers save for a model in parts."""

    def opened(folder: Path, executor: Executor | None) -> AbstractContextManager[OpenedStudy]:
        return open_bundle_study(subject, space, folder, options=options, executor=executor)

    return scaled("reader of surnames", opened, workers)


def scaled(title: str, opened: Open, workers: int) -> Scaled:
    """Returns the times of the trials of a study; weights are quantized and FP32 is scored before.

    Args:
        title: The study.
        opened: Opens it in a folder, for workers.
        workers: How many are compared with one.
    """
    times: dict[int, list[float]] = {1: [], workers: []}
    found, load = set(), []
    trials = images = 0
    for _ in range(ROUNDS):
        load.append(os.getloadavg()[0])
        for count, taken in times.items():
            with (
                tempfile.TemporaryDirectory() as name,
                executing(count) as executor,
                opened(Path(name), executor) as study,
            ):
                run, planned = study.run, study.planned.trials
                run.model.bank.fill(run.model.bank.wanted(planned))
                assert run.float_outcome.score > 0
                started = time.perf_counter()
                outcomes = run.outcomes(planned)
                taken.append(time.perf_counter() - started)
                found.add(tuple(each.draws.tobytes() for each in outcomes))
                trials, images = len(planned), len(run.numbers)
    return Scaled(
        title, workers, trials, images, tuple(times[1]), tuple(times[workers]), tuple(load), len(found) == 1
    )  # fmt: skip


def page(found: list[Scaled], command: str) -> str:
    """Returns the page.

    Args:
        found: The studies.
        command: What repeats it.
    """
    cpus = read_machine().usable_cpus
    lines = [
        "# `edgeq study --workers`: what several workers save",
        "",
        f"Wall time of all trials in processes of one thread, one worker and several in turns, {ROUNDS} rounds; "
        "weights are quantized and FP32 is scored before. The ratio is the median over the rounds. The load average of "
        f"the machine before each round says how busy its {cpus} CPUs were with other work: what others take is "
        "missing for the second worker.",
        "",
        "| study | trials | images | one worker, s | workers | together, s | times as fast | load | scores |",
        "|---|---:|---:|---|---:|---|---:|---|---|",
    ]
    for each in found:
        alone, together, load = (
            ", ".join(f"{value:.1f}" for value in values) for values in (each.alone_s, each.together_s, each.load)
        )
        alike = "the same, bit for bit" if each.alike else "**differ**"
        lines.append(
            f"| {each.title} | {each.trials} | {each.images} | {alone} | {each.workers} | {together} | "
            f"{each.ratio:.2f} | {load} | {alike} |"
        )
    return "\n".join([*lines, "", f"{read_machine().cpu}; {code_state()}. Repeat it: `{command}`.", ""])
