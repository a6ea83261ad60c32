"""`edgeq tune --sensitivity`: from a model and a data set to what each of its layers costs when it is quantized."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import Split, open_split
from edgeq.errors import InputError
from edgeq.evaluation.output_difference import real_inputs
from edgeq.evaluation.preset_proof import AnnotatedImages, proven_request
from edgeq.exporting.onnx.writer import FloatModel
from edgeq.files import require_writable
from edgeq.inputs import Item
from edgeq.machine import read_machine
from edgeq.notes import log_of
from edgeq.reporting.sensitivity_plot import save_sensitivity_plot
from edgeq.results.sensitivity import Precision, SensitivityResult
from edgeq.sources.formats import TFLITE, source_format
from edgeq.sources.model import ModelRequest, OpenedModel, open_model
from edgeq.targets import Target, get_target
from edgeq.targets.isa import with_isa
from edgeq.tasks import Task, find_decoder
from edgeq.tuning.executors import Executor
from edgeq.tuning.groups import By
from edgeq.tuning.scoring import ScoringOptions, for_executor
from edgeq.tuning.sensitivity import SensitivityOptions, measure_sensitivity
from edgeq.tuning.store import Store
from edgeq.tuning.tflite_files import TfliteFiles, screened_target
from edgeq.tuning.trials import Subject

if TYPE_CHECKING:
    import numpy as np

_SCREENED = 4
"""Images of the screening."""

_ENGINE = "pycocotools"

_log = log_of(__name__)


@dataclass(frozen=True)
class SensitivityFiles:
    """What the command made.

    Attributes:
        result: What was found.
        ranges: The ranges that were calibrated, or given; `None` if they were in memory.
        picture: The bars of all groups, as SVG.
    """

    result: SensitivityResult
    ranges: Path | None
    picture: Path


def find_sensitivity(
    request: ModelRequest,
    target_name: str,
    data: Split,
    calibration: CalibrationSource,
    out: Path,
    *,
    by: By = "layer",
    options: SensitivityOptions | None = None,
    store: Path | None = None,
    executor: Executor | None = None,
) -> SensitivityFiles:
    """Returns what each layer or block of a model costs the score of its task, with a picture of it.

    Args:
        request: The model.
        target_name: Target whose rules say which layers are quantized.
        data: The images to score on.
        calibration: Where the ranges come from; the screening takes some of its images.
        out: Folder for the ranges and the picture.
        by: Whether layers or blocks are tried.
        options: How it is measured.
        store: File that trials are kept in; by default `trials.sqlite` in `out`.
        executor: Who predicts images, by default this process; an engine elsewhere has one thread by default.

    Raises:
        InputError: the model or target has no ONNX file, the model names no decoder, an option is out of range, or what
            `edgeq.tuning.sensitivity.measure_sensitivity` raises.
        EdgeqError: see there.
    """
    options = for_executor(options or SensitivityOptions(), executor)
    if not (math.isfinite(options.matters) and options.matters > 0):
        raise InputError(f"`matters` {options.matters}: wanted points of the score, more than 0")
    picture = out / "sensitivity.svg"
    require_writable(picture)
    opened, target, task = open_trials(request, target_name, data, by)
    _require_precision(options.precision, target, options.runtime)
    warn_of_scored_images(calibration, data)
    model = opened.model
    ranges, path = calibration.ranges(model, out, options.threads, [target])
    subject = in_format(Subject(model, target, ranges, by), request, opened, calibration, out, options)
    inputs = screening_inputs(model, calibration)
    with Store(store or out / "trials.sqlite") as kept:
        result = measure_sensitivity(subject, task, inputs, options, kept, executor)
    save_sensitivity_plot(result, picture)
    return SensitivityFiles(result, path, picture)


def in_format(
    subject: Subject,
    request: ModelRequest,
    opened: OpenedModel,
    calibration: CalibrationSource,
    out: Path,
    options: ScoringOptions,
) -> Subject:
    """Returns a subject whose trials are files of the engine that scores them: TFLite files for LiteRT.

    Args:
        subject: What trials are made from; its ranges are those that `edgeq calibrate` finds for all targets.
        request: The model.
        opened: The same, opened.
        calibration: Where its ranges come from.
        out: Folder for the ranges of what the graph has no counterpart of.
        options: How trials are scored.

    Raises:
        ModelError: the model cannot be converted.
        MissingDependencyError: the extra `tflite` is not installed.
    """
    if options.runtime != TFLITE.runtime or TFLITE.name not in subject.target.formats:
        return subject
    subject = dataclasses.replace(subject, target=screened_target(subject.model, subject.target))
    converted = TFLITE.function("convert")(request, opened)
    probes, _ = real_inputs(opened.model.preprocessing, calibration)
    files = TfliteFiles.of(
        opened.model, converted, subject.target, subject.ranges, subject.selection.quantized, probes, calibration, out,
        options.threads,
    )  # fmt: skip
    return dataclasses.replace(subject, files=files)


def _require_precision(precision: str, target: Target, runtime: str | None) -> None:
    """Checks that a target's engines take files of a precision.

    Raises:
        InputError: they do not, or there is no such precision.
    """
    if precision not in get_args(Precision):
        raise InputError(f"`precision` {precision}: layers are tried in {' or '.join(get_args(Precision))}")
    if precision == "w4a8" and runtime == TFLITE.runtime:
        raise InputError("`precision` w4a8: edgeq writes no such TFLite files; choose int8, or `runtime` onnxruntime")
    if precision == "w4a8" and not target.rules.takes_w4a8:
        raise InputError(
            f"`precision` w4a8: edgeq writes no such files for the engines of {target.name}; choose int8, or `target` "
            "x86"
        )


def open_trials(request: ModelRequest, target_name: str, data: Split, by: str) -> tuple[OpenedModel, Target, Task[Any]]:
    """Returns the model of trials, their target, and the task that scores them.

    Args:
        request: The model.
        target_name: Name of the target.
        data: The images to score on.
        by: What is tried together.

    Raises:
        InputError: the model or target has no ONNX file, the model names no decoder, or `by` is none of `By`.
        ModelError: the model cannot be opened.
    """
    if by not in get_args(By):
        raise InputError(f"`by` {by}: wanted {' or '.join(get_args(By))}")
    target = get_target(target_name)
    if "onnx" not in target.formats or source_format(request.reference).has_own_form:
        raise InputError(f"{request.reference} for {target.name}: layers are tried in ONNX files; choose an ONNX model")
    target = with_isa(target, None, read_machine())
    opened = open_model(proven_request(request, AnnotatedImages.of(None, None, data)))
    model = opened.model
    if model.postprocessing is None:
        raise InputError(f"{model.name}: nothing says how its outputs are read; give a `preset` that names a decoder")
    return opened, target, find_decoder(model.postprocessing).task.from_split(data, _ENGINE)


def warn_of_scored_images(calibration: CalibrationSource, data: Split) -> None:
    """Warns where ranges are calibrated on images that are scored, which flatters INT8."""
    scored = {image.item.name for image in data.images}
    calibrated = {each.name if isinstance(each, Item) else str(each) for each in calibration.data()}
    if both := len(scored & calibrated):
        _log.warning(
            "%d of the %d images for calibration are scored too, which flatters INT8; give other ones with `calib`",
            both,
            len(calibrated),
        )


def calibration_of(data: Path, calib: Path | None, num: int, *, allow_outside: bool = False) -> CalibrationSource:
    """Returns where ranges come from: what a user gives, or else the images of a data set that are for calibration.

    Args:
        data: The data set.
        calib: A ranges file or images, if they are given.
        num: The most images to calibrate on.
        allow_outside: Whether files may be read that the data set names outside its own folder.

    Raises:
        InputError: the data set has no such images.
    """
    if calib is not None:
        return CalibrationSource(calib, num=num)
    return CalibrationSource(open_split(data, "calibration", allow_outside=allow_outside).items, num=num)


def screening_inputs(model: FloatModel, calibration: CalibrationSource) -> list[np.ndarray]:
    """Returns the inputs of the screening.

    Raises:
        InputError: the ranges come without any.
    """
    found = [array for array, _ in calibration.inputs(model.preprocessing, _SCREENED)]
    if not found:
        raise InputError("`calib`: holds no inputs to screen layers on; give images, or ranges that keep inputs")
    return found
