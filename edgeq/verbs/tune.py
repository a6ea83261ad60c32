"""`edgeq tune`: from a model, a data set and a budget to the best file, with its proof."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

import edgeq
from edgeq.calibration.channel_extremes import channel_statistics
from edgeq.calibration.reconstruction.reconstruct import images_to_learn_on, reconstruct, require_inputs
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import Split
from edgeq.devices.config import Device
from edgeq.errors import EngineError, InputError, MissingDependencyError
from edgeq.evaluation.evaluate import obtained_by
from edgeq.events import BudgetMet, SearchFinished, emit
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.exporting.options import Rounding
from edgeq.exporting.passes.rescalings import RESCALINGS
from edgeq.exporting.planning.keep import VitPlan
from edgeq.files import require_writable, sha256_bytes, sha256_json
from edgeq.reporting.tuning_plot import save_tuning_plot
from edgeq.results.environment import parse_environment
from edgeq.results.tuning import TunedFile, TuningBudget, TuningResult
from edgeq.sources.formats import TFLITE
from edgeq.sources.model import ModelRequest
from edgeq.tasks import Task
from edgeq.tuning.candidate import INT8, W4A8, Candidate, Recipe
from edgeq.tuning.device_costs import costs_on_devices
from edgeq.tuning.executors import Executor
from edgeq.tuning.front import pareto
from edgeq.tuning.groups import By
from edgeq.tuning.machine_lock import machine_alone, waiting_until
from edgeq.tuning.mlflow_log import MlflowExperiment
from edgeq.tuning.scoring import Scoring, for_executor
from edgeq.tuning.search import Search
from edgeq.tuning.search_budget import Budget
from edgeq.tuning.search_choice import SearchOptions, Tried, is_proved, nearly_proved, recommend, worth_learning
from edgeq.tuning.search_costs import LayerCosts, estimated_costs, kept_by_cost, layer_costs
from edgeq.tuning.search_halving import Deadline
from edgeq.tuning.search_latency import require_measurable, this_machine
from edgeq.tuning.search_reasons import explain
from edgeq.tuning.store import Store
from edgeq.tuning.timing_devices import Devices, require_reachable, require_target
from edgeq.tuning.timing_site import TimingSite
from edgeq.tuning.trials import Calibrated, LearnedRounding, Subject
from edgeq.verbs.export_costs import PlanBy, default_measuring, default_plan
from edgeq.verbs.export_weights import calibration_feeds
from edgeq.verbs.sensitivity import in_format, open_trials, screening_inputs, warn_of_scored_images

FRONT = "front"
"""Folder of the files of the front, below that of the recommended file."""

_EQUALIZE = "equalize"
_CHANNEL_IMAGES = 128


@dataclass(frozen=True)
class TuningFiles:
    """What the command made.

    Attributes:
        result: What was found.
        artifact: The recommended file.
        ranges: The ranges that were calibrated, or given; `None` if they were in memory.
        picture: The front, as SVG.
    """

    result: TuningResult
    artifact: Artifact
    ranges: Path | None
    picture: Path


def tune_model(
    request: ModelRequest,
    target_name: str,
    data: Split,
    calibration: CalibrationSource,
    out: Path,
    *,
    by: By = "layer",
    options: SearchOptions | None = None,
    seconds: float | None = None,
    store: Path | None = None,
    plan: PlanBy | None = None,
    executor: Executor | None = None,
    mlflow: str | None = None,
    devices: Sequence[Device] = (),
    front: bool = False,
    rounding: Rounding = "nearest",
) -> TuningFiles:
    """Returns the best file of a model for a budget, written to a folder with its manifest and a picture of the front.

    Args:
        request: The model.
        target_name: Target whose rules say what may run in INT8.
        data: The images to score on.
        calibration: Where the ranges come from; the screening takes some of its images.
        out: Folder for the file, the ranges and the picture.
        by: Whether a precision is chosen for each layer or each block.
        options: The budget, and how trials are scored.
        seconds: After how many seconds the best so far is taken.
        store: File that trials are kept in; by default `trials.sqlite` in `out`.
        plan: How `edgeq export` chooses its layers, for the file that others are compared with.
        executor: Who predicts images, by default this process; an engine elsewhere has one thread by default.
        mlflow: Address of the MLflow server or database that trials are logged to; `env` for MLFLOW_TRACKING_URI.
        devices: Devices of one kind that files are timed on; by default this machine.
        front: Whether all files of the front are written to `out/front`, and not only the recommended one.
        rounding: `reconstruct` learns how the weights of one more file are rounded, which takes minutes.

    Raises:
        InputError: the model or target has no ONNX file, the model names no decoder or scores nothing in FP32, an
            option is out of range, there are too few images for the budget, or no file keeps it.
        DeviceError: a device cannot be reached, or all are lost; what was done is in the store.
        EdgeqError: a file cannot be written or run.
    """
    if rounding not in get_args(Rounding):
        raise InputError(f"`rounding` {rounding}: wanted one of {', '.join(get_args(Rounding))}")
    options = options or SearchOptions()
    if rounding != "nearest" and options.runtime == TFLITE.runtime:
        raise InputError(f"`rounding` {rounding}: is learned for ONNX files; omit it, or choose another `runtime`")
    for module in ("scipy", "matplotlib"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError(module, "tune", "A search for the best file")
    if seconds is not None:
        options = dataclasses.replace(options, deadline=Deadline(time.monotonic() + seconds))
    device_threads, options = options.threads, for_executor(options, executor)
    picture = out / "tuning.svg"
    require_writable(picture)
    experiment = None if mlflow is None else MlflowExperiment.open(mlflow)
    opened, target, task = open_trials(request, target_name, data, by)
    model, is_tflite = opened.model, options.runtime == TFLITE.runtime
    options.check_images(len(task.items))
    if devices:
        require_target(target, devices)
        require_reachable(devices)
    warn_of_scored_images(calibration, data)
    target = dataclasses.replace(target, rules=target.rules.of_any_size) if target.timed else target
    ranges, path = calibration.ranges(model, out, options.threads, [target])
    inputs = screening_inputs(model, calibration)
    # A TFLite file cannot hold rescaled channels: its converter moves scales into the layers behind.
    rescaled = {} if is_tflite else _equalized(model, calibration, out / _EQUALIZE, options.threads)
    vit_plan: VitPlan = "fast" if find_transformer(model.graph).blocks else "balanced"
    learned = _learned_rounding(model, calibration, options.threads) if rounding == "reconstruct" else None
    subject = Subject(model, target, ranges, by, vit_plan, rescaled, learned)
    subject = in_format(subject, request, opened, calibration, out, options)
    with contextlib.ExitStack() as stack:
        log = None if experiment is None else stack.enter_context(experiment.following(model.name))
        kept = stack.enter_context(Store(store or out / "trials.sqlite"))
        timing = partial(Devices, devices, target, threads=device_threads) if devices else None
        result, artifact = tune_subject(
            subject, task, inputs, out, options, kept, default_plan(plan), executor, timing, front=front
        )
        save_tuning_plot(result, picture)
        if log is not None:
            log.add_result(result, picture)
    emit(
        SearchFinished(
            recommended=result.recommended,
            file=str(artifact.path),
            digest=result.digest,
            trials=result.trials,
            images_scored=result.images_scored,
            stopped=result.stopped,
        )
    )
    return TuningFiles(result, artifact, path, picture)


def tune_subject(
    subject: Subject,
    task: Task[Any],
    inputs: Sequence[np.ndarray],
    out: Path,
    options: SearchOptions,
    store: Store,
    plan: PlanBy = "cost",
    executor: Executor | None = None,
    devices: Callable[[str], Devices] | None = None,
    *,
    front: bool = False,
) -> tuple[TuningResult, Artifact]:
    """Returns what a search found, and the recommended file, which is written to a folder.

    Args:
        subject: The model, its target and its ranges.
        task: The images to score on, with their truth.
        inputs: Inputs `(1, C, H, W)` for the screening.
        out: Folder for the file.
        options: The budget, and how trials are scored.
        store: Where trials are kept.
        plan: How `edgeq export` chooses its layers.
        executor: Who predicts images; by default this process.
        devices: Runtime that trials are scored in -> the devices that files are timed on; by default this machine.
        front: Whether all files of the front are written to `out/front`.

    Raises:
        EdgeqError: see `tune_model`.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder, waiting_until(options.deadline.at_s):
        scoring = Scoring(subject, task, inputs, options, store, Path(folder), executor)
        site: TimingSite = this_machine(scoring) if devices is None else devices(scoring.runtime)
        require_measurable(scoring, site, options.budget)
        costs = _costs(scoring, site, options.threads)
        default = default_candidate(subject, kept_by_cost(subject, costs, by_cost=plan == "cost"))
        search = Search(scoring, options, costs, default, site)
        tried, done = search.run()
        worth = worth_learning(tried, options)
        if subject.rounding is not None and worth is not None and not options.deadline.is_over:
            tried.append(search.learned(tried[0], worth))
        chosen = recommend(tried, options, done=done)
        name, proved = chosen.contender.name, is_proved(chosen, options.budget)
        emit(BudgetMet(trial=chosen.contender.trial.plan, name=name, proved=proved))
        artifact = _write(search, chosen, out)
        written = {chosen.contender.name: artifact.path}
        for each in _front(search, tried) if front else ():
            name = each.contender.name
            written[name] = _write(search, each, out / FRONT / name.replace(" ", "-")).path
        files = {name: path.relative_to(out).as_posix() for name, path in written.items()}
        return _result(search, tried, chosen, artifact, files, done=done), artifact


def _front(search: Search, tried: Sequence[Tried]) -> list[Tried]:
    """Returns the files that no other one betters in points without being worse in time, or in size if it decides."""
    whole = [each for each in tried if each.score is not None and not each.contender.dropped]
    by_size = _asked(search.options.budget).by_size
    costs = [each.contender.artifact.size_bytes if by_size else each.latency.ratio for each in whole]
    return [whole[index] for index in pareto([(each.points, cost) for each, cost in zip(whole, costs, strict=True)])]


def _asked(budget: Budget) -> TuningBudget:
    """Returns a budget as it was written."""
    return TuningBudget(
        max_drop=budget.max_drop,
        latency=None if budget.latency is None else budget.latency.text,
        size=None if budget.size is None else budget.size.text,
        memory=None if budget.memory is None else budget.memory.text,
        energy=None if budget.energy is None else budget.energy.text,
    )


def _costs(scoring: Scoring, site: TimingSite, threads: int | None) -> LayerCosts:
    """Returns what layers cost where files are timed."""
    subject, measure = scoring.subject, default_measuring(None)
    if not isinstance(site, Devices):
        with machine_alone() if measure else contextlib.nullcontext():
            return layer_costs(subject, threads, measure=measure)
    by_rules = default_candidate(subject, kept_by_cost(subject, estimated_costs(subject), by_cost=False))
    return costs_on_devices(scoring, site, by_rules, measure=measure)


def _equalized(
    model: FloatModel, calibration: CalibrationSource, folder: Path, threads: int | None
) -> dict[str, Calibrated]:
    """Returns the model with channels evened out between its convolutions, calibrated; nothing if it has no such."""
    rescaling = RESCALINGS[_EQUALIZE]
    names = rescaling.tensors(model.graph) if calibration.has_images else ()
    if not names:
        return {}
    changed = dataclasses.replace(model, graph=model.copy_graph())
    num = min(calibration.num, _CHANNEL_IMAGES)
    statistics = channel_statistics(model, names, calibration.data(), axis=rescaling.axis, num=num, threads=threads)
    if not rescaling.change(changed.graph, statistics).done:
        return {}
    ranges, _ = calibration.ranges(changed, folder, threads)
    return {_EQUALIZE: Calibrated(changed, ranges)}


def _learned_rounding(model: FloatModel, calibration: CalibrationSource, threads: int | None) -> LearnedRounding:
    """Returns what learns the rounding of weights, on images to calibrate on or the inputs kept with ranges."""
    num = min(calibration.num, images_to_learn_on(model.preprocessing.input_shape))
    feeds = calibration_feeds(model, calibration, num)
    require_inputs(len(feeds))
    digests = [sha256_bytes(array.tobytes()) for feed in feeds for array in feed.values()]
    return LearnedRounding(partial(reconstruct, feeds=feeds, threads=threads), sha256_json(digests))


def default_candidate(subject: Subject, in_float: frozenset[str]) -> Candidate:
    """Returns what `edgeq export` writes, before it looks for layers with much noise and times the file."""
    precisions = {group.name: INT8 for group in subject.groups}
    return Candidate(precisions, Recipe(corrects_biases=subject.may_correct_biases), in_float)


def _write(search: Search, chosen: Tried, out: Path) -> Artifact:
    """Returns the recommended file; its manifest says what it was found to cost."""
    artifact = search.subject.write(chosen.contender.candidate, out)
    change, latency = chosen.contender.change, chosen.latency
    facts = {
        "recipe": str(chosen.contender.candidate.recipe),
        "score": {"name": search.scoring.task.score_type.main, "value": chosen.score},
        "points_lost": None if change is None else dataclasses.asdict(change),
        "time_over_fp32": dataclasses.asdict(latency),
        **{name: value for name, value in dataclasses.asdict(chosen.usage).items() if value is not None},
    }
    return dataclasses.replace(artifact, quantization={**artifact.quantization, "tuning": facts}).save()


def _result(
    search: Search, tried: list[Tried], chosen: Tried, artifact: Artifact, written: Mapping[str, str], *, done: bool
) -> TuningResult:
    scoring, options, subject = search.scoring, search.options, search.subject
    devices = search.site.devices if isinstance(search.site, Devices) else ()
    timed = search.site.survey(scoring.float_file) if devices else None
    budget, images = options.budget, len(scoring.float_predictions)
    scored = [each for each in tried if each.score is not None]
    nearly = nearly_proved(tried, chosen, options)
    on_front = {each.contender.name for each in _front(search, tried)}
    files = tuple(
        _file(search, each, on_front, written.get(each.contender.name, ""))
        for each in sorted(tried, key=lambda each: each.latency.ratio)
    )
    count = sum(0 if each.contender.change is None else each.contender.change.images for each in tried)
    return TuningResult(
        model=subject.model.name,
        source_digest=subject.model.digest,
        ranges_digest=subject.ranges.digest,
        target=subject.target.name,
        runtime=scoring.runtime,
        task=scoring.task.name,
        score=scoring.task.score_type.main,
        by=subject.by,
        budget=_asked(budget),
        recommended=chosen.contender.name,
        proved=is_proved(chosen, budget),
        unproved="" if nearly is None else nearly[0].contender.name,
        images_to_prove=None if nearly is None else nearly[1],
        file=artifact.path.name,
        digest=artifact.digest,
        files=files,
        groups=explain(search, chosen, tried),
        time_source=search.costs.time_source,
        images=images,
        images_scored=count,
        images_of_all=images * len(tried),
        trials=len(scored),
        stopped="done" if done else "time",
        seed=options.seed,
        obtained=obtained_by(scoring.runtime, scoring.session_facts),
        environment=parse_environment(scoring.session_facts, source=scoring.whole_file.name, error=EngineError),
        timed_on=None if timed is None else timed.machine,
        timed_in=None if timed is None else timed.engine,
        devices=tuple(device.name for device in devices),
        edgeq=edgeq.__version__,
    )


def _file(search: Search, tried: Tried, on_front: set[str], written: str) -> TunedFile:
    contender = tried.contender
    layers = search.subject.layers(contender.candidate)
    return TunedFile(
        name=contender.name,
        plan=contender.trial.plan,
        recipe=str(contender.candidate.recipe) if layers else "",
        int8_layers=len(layers),
        w4a8_layers=sum(precision == W4A8 for precision in layers.values()),
        score=tried.score,
        loss=contender.change if layers else None,
        latency=tried.latency,
        size_bytes=contender.artifact.size_bytes,
        memory_bytes=tried.usage.memory_bytes,
        j_per_image=tried.usage.j_per_image,
        on_front=contender.name in on_front,
        dropped=contender.dropped,
        file=written,
    )
