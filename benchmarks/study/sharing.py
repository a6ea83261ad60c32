"""What trials share: CPU seconds of a trial with it and without, and what a kill costs."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.cases import Case
from edgeq.datasets import open_split
from edgeq.studying.model import FileModel
from edgeq.studying.run import StudyRun
from edgeq.studying.space import Space
from edgeq.studying.trials import StudyTrial
from edgeq.tuning.store import Store
from edgeq.verbs.study import OpenedStudy, StudyOptions, open_study
from edgeq.verbs.study_bundle import BundleSubject, open_bundle_study

_TIMED = 8
"""Trials that are timed with sharing, evenly spaced over those of a method."""

_POLL_S = 0.05
_PATIENCE_S = 600


@dataclass(frozen=True)
class Speed:
    """CPU seconds of a trial.

    Attributes:
        method: Its method.
        images: Images of each.
        shared_s: With what trials share, mean of several.
        alone_s: On its own.
    """

    method: str
    images: int
    shared_s: float
    alone_s: float


def vit_speeds(case: Case, space: Space, options: StudyOptions) -> list[Speed]:
    """Returns what a trial of each method of a space takes with sharing, and without."""

    def opened(folder: Path) -> AbstractContextManager[OpenedStudy]:
        data = open_split(case.labels, "evaluation")
        return open_study(case.request, data, case.source, space, folder, options=options)

    return _speeds(opened, _vit_alone)


def reader_speeds(subject: BundleSubject, space: Space, options: StudyOptions) -> list[Speed]:
    """Returns what a trial of each method of a space takes with sharing, and without."""

    def opened(folder: Path) -> AbstractContextManager[OpenedStudy]:
        return open_bundle_study(subject, space, folder, options=options)

    def alone(_run: StudyRun, trial: StudyTrial) -> float:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as name, opened(Path(name)) as study:
            _score(study.run, trial)
            return time.process_time() - started - _float_s(study.run)

    return _speeds(opened, alone)


def _speeds(
    opened: Callable[[Path], AbstractContextManager[OpenedStudy]], alone: Callable[[StudyRun, StudyTrial], float]
) -> list[Speed]:
    found = []
    with tempfile.TemporaryDirectory() as name, opened(Path(name)) as study:
        run = study.run
        assert run.float_outcome.score > 0
        for method in dict.fromkeys(each.method for each in study.planned.trials if each.method):
            own = [each for each in study.planned.trials if each.method == method]
            trials = own[:: max(1, len(own) // _TIMED)][:_TIMED]
            run.model.bank.fill(run.model.bank.wanted(trials))
            started = time.process_time()
            run.outcomes(trials)
            shared = (time.process_time() - started) / len(trials)
            found.append(Speed(method, len(run.numbers), shared, alone(run, trials[len(trials) // 2])))
    return found


def _vit_alone(run: StudyRun, trial: StudyTrial) -> float:
    """Returns the CPU seconds of a trial that shares nothing: weights, a whole file, images prepared again."""
    assert isinstance(run.model, FileModel)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as name, Store(Path(name) / "trials.sqlite") as store:
        folder = Path(name)
        bank = dataclasses.replace(run.model.assembler.bank, folder=folder / "weights")
        assembler = dataclasses.replace(run.model.assembler, bank=bank, folder=folder, whole=True)
        alone = dataclasses.replace(run, model=dataclasses.replace(run.model, assembler=assembler), store=store)
        alone.__dict__["float_predictions"] = run.float_predictions
        alone.__dict__["float_outcome"] = run.float_outcome
        _score(alone, trial)
    return time.process_time() - started


def _score(run: StudyRun, trial: StudyTrial) -> None:
    run.model.bank.fill(run.model.bank.wanted([trial]))
    run.outcomes([trial])


def _float_s(run: StudyRun) -> float:
    """Returns the CPU seconds of FP32's score, which both ways need once."""
    started = time.process_time()
    for _ in run.model.predict([(None, piece) for piece in range(len(run.model.pieces))]):
        pass
    return time.process_time() - started


@dataclass(frozen=True)
class Resumed:
    """A study that was killed and run again.

    Attributes:
        kills: How often it was killed.
        trials: Its trials.
        alike: Whether its table of trials and its report are those of an uncut run, byte for byte.
    """

    kills: int
    trials: int
    alike: bool


def resumed(arguments: Sequence[str], work: Path, kills: Sequence[int]) -> Resumed:
    """Returns what becomes of a study that is killed by SIGKILL, compared with one that is not.

    Args:
        arguments: Of `edgeq study`, without `--out`.
        work: Folder of both.
        kills: Numbers of predictions in the store, at which it is killed.
    """
    uncut, cut = work / "uncut", work / "cut"
    command = [sys.executable, "-m", "edgeq", "study", *arguments, "--out"]
    subprocess.run([*command, str(uncut)], check=True, capture_output=True)
    done = 0
    for count in kills:
        process = subprocess.Popen([*command, str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if _wait_for(cut / "trials.sqlite", count, process):
            os.kill(process.pid, signal.SIGKILL)
            done += 1
        process.wait()
    subprocess.run([*command, str(cut)], check=True, capture_output=True)
    names = ("trials.csv", "report.html")
    alike = all((cut / name).read_bytes() == (uncut / name).read_bytes() for name in names)
    return Resumed(done, len((uncut / "trials.csv").read_text("utf-8").splitlines()) - 1, alike)


def _wait_for(store: Path, count: int, process: subprocess.Popen[bytes]) -> bool:
    """Returns whether a process still runs when its store has so many predictions."""
    import sqlite3

    deadline = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if store.is_file():
            try:
                with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as opened:
                    ((known,),) = opened.execute("select count(*) from predictions")
            except sqlite3.OperationalError:  # it is being made
                known = 0
            if known >= count:
                return True
        time.sleep(_POLL_S)
    return False
