"""`edgeq study`: from a model, a data set and a space of choices to what each part of the model costs the score."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import edgeq
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import Split
from edgeq.errors import EngineError, InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.graph import read_onnx
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.files import require_writable
from edgeq.notes import log_of
from edgeq.reporting.page import require_packages
from edgeq.reporting.study_report import REPORT, write_study
from edgeq.results.environment import parse_environment
from edgeq.results.study import StudyResult
from edgeq.sources.model import ModelRequest
from edgeq.studying.adaptive import explore
from edgeq.studying.advice import Command, advise
from edgeq.studying.answers import interactions, points_of
from edgeq.studying.assembly import Assembler
from edgeq.studying.commands import ExportSource, TrialExport, export_command
from edgeq.studying.confirmation import confirm
from edgeq.studying.costs import StudyCost, measure_cost
from edgeq.studying.importance import importances
from edgeq.studying.layers import find_layers
from edgeq.studying.model import RUNTIME, TARGET, FileModel, in_pieces
from edgeq.studying.run import Outcome, StudyRun
from edgeq.studying.space import Sample, Space
from edgeq.studying.timing import FrontTimer, with_times
from edgeq.studying.trials import Planned, plan_trials
from edgeq.studying.weights import WeightBank
from edgeq.tuning.executors import Executor
from edgeq.tuning.store import Store
from edgeq.tuning.timing_site import ThisMachine
from edgeq.tuning.workers_dask import DaskCluster
from edgeq.verbs.export import export_model
from edgeq.verbs.export_weights import calibration_feeds
from edgeq.verbs.sensitivity import open_trials, warn_of_scored_images
from edgeq.wording import counted

WEIGHTS = "weights"
"""Name of the folder of weights in that of a study."""

_log = log_of(__name__)


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run.

    Attributes:
        sample: How trials are chosen from the space.
        trials: How many, for all but `grid`.
        images: The most images to score on; by default all.
        max_drop: Points that a recommended trial may lose.
        margin: Points within which it must hold on the other half of the images; by default what so many can confirm.
        useful_drop: A trial that loses as many points is useless; by default a tenth of FP32's score.
        seed: Draws trials, halves and forests.
        threads: CPU threads of the engine.
        measure: Whether the files of the front's points are written and timed.
    """

    sample: Sample = "grid"
    trials: int | None = None
    images: int | None = None
    max_drop: float = 0.5
    margin: float | None = None
    useful_drop: float | None = None
    seed: int = 0
    threads: int | None = None
    measure: bool = True


@dataclass(frozen=True)
class StudyFiles:
    """What the command made.

    Attributes:
        result: What was found.
        files: The page, the table of trials and the folder for papers.
    """

    result: StudyResult
    files: list[Path]


@dataclass(frozen=True, eq=False)
class OpenedStudy:
    """A study that is ready to run.

    Attributes:
        run: Scores its trials.
        planned: Its trials.
        space: What was asked for.
        command: Returns the command that writes the file of a trial; `None` if no export does.
        timer: Times the files of trials; `None` if they are of a kind that is not timed.
    """

    run: StudyRun
    planned: Planned
    space: Space
    command: Command
    timer: FrontTimer | None = None


def study_model(
    request: ModelRequest,
    data: Split,
    calibration: CalibrationSource,
    space: Space,
    out: Path,
    *,
    options: StudyOptions | None = None,
    store: Path | None = None,
    executor: Executor | None = None,
) -> StudyFiles:
    """Returns what the trials of a study cost the score of a model, with a report in a folder.

    What the store and the folder of weights have is not computed again: the same call resumes a study that was cut,
    with the same result.

    Args:
        request: The model.
        data: The images to score on.
        calibration: The images that methods go by.
        space: The choices.
        out: Folder for the report and the weights.
        options: How it is run.
        store: File that trials are kept in; by default `trials.sqlite` in `out`.
        executor: Who predicts images; by default this process.

    Raises:
        InputError: the model has no ONNX file, names no decoder or scores nothing in FP32, the axes name nothing that
            it has, or a method needs images that are not there.
        MissingDependencyError: a package for the report is not installed.
        EngineError: an engine refuses or fails to run a file.
    """
    require_report(out)
    options = options or StudyOptions()
    with open_study(request, data, calibration, space, out, options=options, store=store, executor=executor) as opened:
        return finish_study(opened, options, out)


def study_cost(
    request: ModelRequest,
    data: Split,
    calibration: CalibrationSource,
    space: Space,
    out: Path,
    *,
    options: StudyOptions,
    store: Path | None = None,
) -> tuple[Planned, StudyCost]:
    """Returns the trials of a study and what they will take, measured here; arguments as of `study_model`.

    Raises:
        EdgeqError: see `study_model`.
    """
    with open_study(request, data, calibration, space, out, options=options, store=store) as opened:
        return opened.planned, cost_of(opened)


@contextlib.contextmanager
def open_study(
    request: ModelRequest,
    data: Split,
    calibration: CalibrationSource,
    space: Space,
    out: Path,
    *,
    options: StudyOptions,
    store: Path | None = None,
    executor: Executor | None = None,
) -> Iterator[OpenedStudy]:
    """Yields a study that is ready to run; arguments as of `study_model`.

    Raises:
        EdgeqError: see `study_model`.
    """
    opened, target, task = open_trials(request, TARGET, data, "layer")
    model = opened.model
    warn_of_scored_images(calibration, data)
    with opened_folder(out, store) as (kept, folder):
        float_file = write_fp32(model, target, folder)
        if float_file.weights_path is not None:
            raise InputError(
                f"{model.name}: is too large for one file; studies take models whose ONNX file is below 2 GB"
            )
        graph = read_onnx(float_file.path)
        layers = find_layers(graph, space.blocks)
        planned = plan_trials(space, layers, options.sample, options.trials, options.seed)
        most = space.most_images(calibration.num)
        feeds = calibration_feeds(model, calibration, most) if calibration.has_images else []
        threads = 1 if executor is not None and options.threads is None else options.threads
        bank = WeightBank(graph, tuple(each.name for each in layers), feeds, out / WEIGHTS, threads)
        assembler = Assembler(float_file, bank, layers, out, whole=isinstance(executor, DaskCluster))
        pieces = in_pieces(len(task.items), options.images)
        studied = FileModel(model, assembler, task, pieces, threads, executor)
        run = StudyRun(studied, task, kept, options.max_drop, options.useful_drop, options.seed)
        source = ExportSource.of(request, calibration)
        site = ThisMachine(target, RUNTIME, threads, run.journal.facts["engine"])
        timer = FrontTimer(target, site, partial(_write, request, calibration, threads), folder)
        yield OpenedStudy(run, planned, space, partial(export_command, layers=layers, source=source), timer)


def _write(
    request: ModelRequest, calibration: CalibrationSource, threads: int | None, export: TrialExport, folder: Path
) -> Artifact:
    """Returns the file of a trial, written to a folder as its command writes it."""
    num = export.variant.calibration or calibration.num
    source = dataclasses.replace(calibration, num=num) if calibration.has_images else None
    (file,) = export_model(
        request, TARGET, (export.precision,), folder, calibration=source, formats=("onnx",), options=export.options,
        threads=threads,
    ).files  # fmt: skip
    return file.artifact


def require_report(out: Path) -> None:
    """Checks, before long work, that a report can be written to a folder.

    Raises:
        InputError: the folder cannot be written.
        MissingDependencyError: a package for pages is not installed.
    """
    require_packages()
    require_writable(out / REPORT)


@contextlib.contextmanager
def opened_folder(out: Path, store: Path | None) -> Iterator[tuple[Store, Path]]:
    """Yields the store of a study, and a folder for files of FP32 that goes when it ends.

    Args:
        out: Folder for the report and the weights.
        store: File that trials are kept in; by default `trials.sqlite` in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    # The folder lies next to the weights, which the files of trials name by paths below their own folder.
    with Store(store or out / "trials.sqlite") as kept, tempfile.TemporaryDirectory(prefix="float-", dir=out) as folder:
        yield kept, Path(folder)


def finish_study(opened: OpenedStudy, options: StudyOptions, out: Path) -> StudyFiles:
    """Returns what the trials of a study cost, with its report in a folder.

    Args:
        opened: The study.
        options: How it is run.
        out: The folder.

    Raises:
        EdgeqError: see `study_model`.
    """
    run, planned = opened.run, opened.planned
    entries = [run.entry(trial) for trial in (None, *planned.trials)]
    if (count := run.store.count()) and not any(map(run.journal.has, entries)):
        _log.warning("the store has %s of another model, data or engine; none is used", counted(count, "trial"))
    found, outcomes = explore(run, planned)
    result = _result(dataclasses.replace(opened, planned=found), outcomes, options)
    return StudyFiles(result, write_study(result, out))


def cost_of(opened: OpenedStudy) -> StudyCost:
    """Returns what the trials of a study will take, those that are still to be chosen too."""
    cost = measure_cost(opened.run, opened.planned.trials)
    return dataclasses.replace(cost, trials=cost.trials + opened.planned.to_come)


def _result(opened: OpenedStudy, outcomes: Sequence[Outcome], options: StudyOptions) -> StudyResult:
    run, planned, space = opened.run, opened.planned, opened.space
    layers, trials = run.model.layers, planned.trials
    rest = run.model.size_bytes - 4 * sum(each.weights for each in layers)
    points = points_of(run, outcomes, layers, max(rest, 0))
    pairs = interactions(run, outcomes)
    confirmation = confirm(run, outcomes, {each.name: each.bits_per_weight for each in points}, options.margin)
    notes = list(planned.notes)
    if options.measure and opened.timer is not None:
        useful = (each for each in points if each.on_front and not each.useless)
        front = sorted(useful, key=lambda each: each.bits_per_weight)
        times, untimed = opened.timer.times(run, front, {each.name: each for each in trials})
        points, notes = with_times(points, times), [*notes, *untimed]
    lost = [each.loss.points for each in points]
    importance, missing = importances(trials, lost, layers, options.seed)
    if not any(lost):
        notes.append(f"no trial moves {run.task.score_type.main}; try fewer bits")
    if confirmation is None:
        notes.append(f"no trial loses at most {options.max_drop:g} points on the first half of the images")
    if all(each.useless for each in points):
        notes.append(f"no trial is useful; {points[0].name}: {points[0].useless}")
    return StudyResult(
        model=run.model.name,
        source_digest=run.model.digest,
        question=space.question,
        task=run.task.name,
        score=run.task.score_type.main,
        space=space.to_json(),
        sample=options.sample,
        trials_asked=planned.asked,
        trials_in_space=planned.space,
        cells={each.name: each.layers for each in planned.cells},
        points=points,
        interactions=pairs,
        importance=importance,
        advice=advise(run, outcomes, points, pairs, confirmation, opened.command),
        confirmation=confirmation,
        notes=(*notes, *missing),
        weights_quantized=len(run.model.bank.wanted(trials)),
        weights_used=len(trials) * len(layers),
        images=len(run.float_predictions),
        float_score=run.float_outcome.score,
        useful_drop=run.limit,
        chance_score=None if run.chance_outcome is None else run.chance_outcome.score,
        seed=options.seed,
        environment=parse_environment(run.model.facts, source=run.model.artifact.name, error=EngineError),
        edgeq=edgeq.__version__,
    )
