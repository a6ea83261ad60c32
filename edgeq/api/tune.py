"""`edgeq.sensitivity` and `edgeq.tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.api.arguments import FilePath, Listener, optional_path, path, reporting, require_positive, scored_data
from edgeq.api.model import Model, require_model
from edgeq.calibration.calibrate import DEFAULT_NUM
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import Split
from edgeq.errors import InputError
from edgeq.exporting.options import Rounding
from edgeq.results.sensitivity import Precision, SensitivityResult
from edgeq.results.tuning import TuningResult
from edgeq.tuning.groups import By
from edgeq.tuning.search_budget import Budget, parse_seconds
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.sensitivity import SensitivityOptions
from edgeq.tuning.timing_devices import find_timing_devices
from edgeq.tuning.workers import executing
from edgeq.verbs.sensitivity import calibration_of, find_sensitivity
from edgeq.verbs.tune import tune_model


def sensitivity(
    model: Model,
    data: FilePath,
    *,
    target: str = "x86",
    by: By = "layer",
    runtime: str | None = None,
    images: int | None = None,
    matters: float = SensitivityOptions.matters,
    precision: Precision = SensitivityOptions.precision,
    calib: FilePath | None = None,
    num: int = DEFAULT_NUM,
    split: str | None = None,
    allow_outside: bool = False,
    map: Mapping[str, str] | None = None,
    seed: int = 0,
    out: FilePath = "tuning",
    store: FilePath | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Listener = None,
) -> SensitivityResult:
    """Returns what each layer of a model costs the score of its task quantized, alone and when it alone stays in float.

    What the store holds is not computed again, so the same call resumes a run that was cut. The picture is written to
    `out` as `sensitivity.svg`.

    Args:
        model: What `edgeq.load` returned, with a preset that names a decoder.
        data: A data set of any format that `edgeq data` knows.
        target: Target whose rules say which layers run in INT8; see `export`.
        by: What is tried alone: a `layer`, or a `block`.
        runtime: Engine to score in; by default the first of the target for ONNX files that is installed. `litert`, for
            `target` arm, tries TFLite files. A simulation is one, too:
            `simulated-tensorrt`.
        images: Maximum number of images to score on, evenly spaced; by default all.
        matters: Points of the score from which a loss matters: layers are scored on more images until the interval of
            their loss lies above or below.
        precision: What layers are tried in: `int8`, or `w4a8` for weights of 4 bits that are computed in INT8.
        calib: Ranges: a ranges file or images; by default the images of `data` that are for calibration.
        num: Maximum number of calibration images.
        split: Split of `data` to score on; by default `val`, or else `test`.
        allow_outside: Whether files may be read that `data` names outside its own folder.
        map: Class name of the model -> name of the same class in `data`.
        seed: Draws the order of the images.
        out: Folder for the ranges and the picture.
        store: File that trials are kept in, which several runs may share; by default `trials.sqlite` in `out`.
        threads: CPU threads of the engine; by default one per physical core, and one per worker.
        workers: Number of processes on this machine that predict images; by default this process alone.
        scheduler: Address of the scheduler of a Dask cluster whose workers predict images, as `tcp://host:8786`.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, the target runs no layer in INT8, or the model or the data hold nothing
            to score.
        ModelError: the model cannot be opened.
        MismatchError: the ranges belong to another model or pre-processing.
        EngineError: an engine refuses or fails to run a file.
    """
    scored, source = _opened(model, data, split, allow_outside, map, calib, num, images, threads)
    with reporting(progress), executing(workers, scheduler) as executor:
        return find_sensitivity(
            model.request(target),
            target,
            scored,
            source,
            path(out, "out"),
            by=by,
            options=SensitivityOptions(
                matters=matters, images=images, runtime=runtime, seed=seed, threads=threads, precision=precision
            ),
            store=optional_path(store, "store"),
            executor=executor,
        ).result


def tune(
    model: Model,
    data: FilePath,
    *,
    max_drop: float | None = None,
    latency: str | None = None,
    file_size: str | None = None,
    memory: str | None = None,
    energy: str | None = None,
    unproved: bool = False,
    time_limit: str | None = None,
    target: str = "x86",
    by: By = "layer",
    runtime: str | None = None,
    images: int | None = None,
    calib: FilePath | None = None,
    num: int = DEFAULT_NUM,
    split: str | None = None,
    allow_outside: bool = False,
    map: Mapping[str, str] | None = None,
    seed: int = 0,
    out: FilePath = "tuning",
    front: bool = False,
    rounding: Rounding = "nearest",
    store: FilePath | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    mlflow: str | None = None,
    device: str | Sequence[str] = (),
    progress: Listener = None,
) -> TuningResult:
    """Returns what a search for the best file within a budget found; the file is written to `out` with its manifest.

    With `max_drop` it is the fastest file that loses no more, otherwise the one that loses least. What the store holds
    is not computed again, so the same call resumes a run that was cut. The front is drawn in `out` as `tuning.svg`.

    Args:
        model: What `edgeq.load` returned, with a preset that names a decoder.
        data: A data set of any format that `edgeq data` knows.
        max_drop: Points of the score that may be lost against FP32; 0.5 without another limit.
        latency: The most time of one run: `12ms`, or `0.5x` of FP32's.
        file_size: The largest file: `4MB`, or `0.5x` of FP32's. With it weights of 4 bits are tried, too.
        memory: The most memory of a process that runs the file: `80MB`, or `0.5x` of FP32's.
        energy: The most energy of one image, where a sensor counts it: `20mJ`, or `0.5x` of FP32's.
        unproved: Whether `max_drop` is judged by the estimate, and not by its 95 % interval.
        time_limit: The best so far is taken after this time: `90s`, `30m`, `2h`.
        target: Target whose rules say what may run in INT8; see `export`.
        by: What has one precision: a `layer`, or a `block`.
        runtime: Engine to score in; by default the first of the target for ONNX files that is installed. `litert`, for
            `target` arm, makes TFLite files.
        images: Maximum number of images to score on, evenly spaced; by default all.
        calib: Ranges: a ranges file or images; by default the images of `data` that are for calibration.
        num: Maximum number of calibration images.
        split: Split of `data` to score on; by default `val`, or else `test`.
        allow_outside: Whether files may be read that `data` names outside its own folder.
        map: Class name of the model -> name of the same class in `data`.
        seed: Draws the order of the images.
        out: Folder for the file, the ranges and the picture.
        front: Whether all files of the front are written to `out/front`, and not only the recommended one.
        rounding: `reconstruct` learns how the weights of one more file are rounded, which takes minutes: of the fastest
            within the other limits than `max_drop`, or of the one that loses least.
        store: File that trials are kept in, which several runs may share; by default `trials.sqlite` in `out`.
        threads: CPU threads of the engine; by default one per physical core, and one per worker.
        workers: Number of processes on this machine that predict images; by default this process alone.
        scheduler: Address of the scheduler of a Dask cluster whose workers predict images, as `tcp://host:8786`.
        mlflow: Address of the MLflow server or database that trials are logged to, as `http://host:5000` or
            `sqlite:///mlflow.db`; `env` for that in MLFLOW_TRACKING_URI.
        device: Where files are timed: `local`, `ssh://[user@]host[:port]` or a name of devices.toml; several of one
            kind share the work.
        progress: Called for each job, returns an `edgeq.Progress`.

    Raises:
        InputError: an argument cannot be used, the model or the data hold nothing to score, there are too few images
            for the budget, or no file keeps it; the message says which is the nearest.
        ModelError: the model cannot be opened.
        MismatchError: the ranges belong to another model or pre-processing.
        MissingDependencyError: scipy is not installed.
        DeviceError: a device cannot be reached, or all are lost.
        EngineError: an engine refuses or fails to run a file.
    """
    budget = Budget.of(max_drop, latency, file_size, memory, energy)
    devices = find_timing_devices([device] if isinstance(device, str) else device)
    seconds = None if time_limit is None else parse_seconds(time_limit)
    scored, source = _opened(model, data, split, allow_outside, map, calib, num, images, threads)
    with reporting(progress), executing(workers, scheduler) as executor:
        return tune_model(
            model.request(target),
            target,
            scored,
            source,
            path(out, "out"),
            by=by,
            options=SearchOptions(
                images=images, runtime=runtime, seed=seed, threads=threads, budget=budget, unproved=unproved
            ),
            seconds=seconds,
            store=optional_path(store, "store"),
            executor=executor,
            mlflow=mlflow,
            devices=devices,
            front=front,
            rounding=rounding,
        ).result


def _opened(
    model: Model,
    data: FilePath,
    split: str | None,
    allow_outside: bool,
    class_map: Mapping[str, str] | None,
    calib: FilePath | None,
    num: int,
    images: int | None,
    threads: int | None,
) -> tuple[Split, CalibrationSource]:
    """Returns the images to score on and where ranges come from; raises `InputError` for what cannot be used."""
    require_model(model)
    require_positive(images, "images")
    require_positive(num, "num")
    require_positive(threads, "threads")
    folder, source = path(data, "data"), optional_path(calib, "calib")
    scored = scored_data(folder, split, allow_outside, class_map, others=())
    if scored is None:
        raise InputError("`data`: wanted a data set to score on")
    return scored, calibration_of(folder, source, num, allow_outside=allow_outside)
